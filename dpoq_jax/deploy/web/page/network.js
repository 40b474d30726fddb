// Runs the network: a ring more makes it better, and an image runs only as far as it has to.
import { combined, label, leaves, probabilities } from './exit_rule.js';

// Starts the runtime; `program` is its WebAssembly.
export async function startRuntime(program) {
  const ort = await import('./runtime/onnxruntime.js');
  ort.env.wasm.wasmBinary = program;
  // More would need a server that isolates the page from others.
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = 'error';
  return ort;
}

export class Network {
  #ort;
  #sessions = [];
  #blank;
  #turn = Promise.resolve();

  // `description` is the content of network.json.
  constructor(ort, description) {
    this.#ort = ort;
    this.bits = description.bits;
    this.shape = description.image_shape;
  }

  // Returns how many rings are here.
  get rings() {
    return this.#sessions.length;
  }

  // Adds the ring of the next precision; one that cannot run is not added.
  add(graph) {
    return this.#inTurn(async () => {
      const options = { executionProviders: ['wasm'], intraOpNumThreads: 1 };
      const session = await this.#ort.InferenceSession.create(graph, options);
      // What runs first is compiled then: it would be taken for the time of the first image.
      this.#blank ??= this.image(new Uint8Array(this.shape.reduce((a, b) => a * b)));
      await this.#runPath(this.#blank, session);
      this.#sessions.push(session);
    });
  }

  // Returns an image that has run no path yet.
  image(pixels) {
    const images = new this.#ort.Tensor('uint8', pixels, [1, ...this.shape]);
    return { tensors: { images }, run: [] };
  }

  // Returns where an image leaves and what it is; paths that it ran before are not run again.
  // `point` is an operating point, `most` the index of the last precision that may be run.
  answer(image, point, most) {
    return this.#inTurn(async () => {
      const last = Math.min(most, this.rings - 1);
      const run = [];
      for (let index = 0; ; index++) {
        const bits = this.bits[index];
        if (index === image.run.length) image.run.push(await this.#runPath(image, this.#sessions[index]));
        const { logits, milliseconds } = image.run[index];
        const own = probabilities(logits, point.temperatures[bits]);
        run.push({ own, label: label(own), confidence: Math.max(...own), milliseconds });
        if (index === last || leaves(own, point, bits)) {
          const shares = combined(run.map((each) => each.own), point.weights[bits]);
          const total = run.reduce((sum, each) => sum + each.milliseconds, 0);
          return { index, run, shares, label: label(shares), milliseconds: total };
        }
      }
    });
  }

  // Runs a path on an image; what it hands up is kept for the paths above it.
  async #runPath(image, session) {
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, image.tensors[name]]));
    const started = performance.now();
    const { logits, ...handedUp } = await session.run(feeds);
    const milliseconds = performance.now() - started;
    Object.assign(image.tensors, handedUp);
    return { logits: logits.data, milliseconds };
  }

  // The runtime does one thing at a time.
  #inTurn(task) {
    const done = this.#turn.then(task);
    this.#turn = done.catch(() => {});
    return done;
  }
}
