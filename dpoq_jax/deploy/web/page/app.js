// The page: loads ring after ring, and answers by those that are here.
import { download } from './download.js';
import { Network, startRuntime } from './network.js';
import { pixelsOf } from './pixels.js';
import * as view from './view.js';

const byId = (id) => document.getElementById(id);
const [slider, most, file, camera] = ['point', 'most', 'file', 'camera'].map(byId);

const description = await described();
const { bits, class_names: classNames, image_shape: shape, points, rings } = description;
const loads = rings.map(() => ({}));
const tests = await Promise.all(description.images.map(opened));
const answers = tests.map(() => undefined);
let network;
let shown; // The image on the page: its name, and its right class if that is known.
let chosen = 0;
let asked = 0;
let tallies = 0;

const point = () => points[slider.value];
const cap = () => Number(most.value);
const isRight = (index) => answers[index]?.label === description.images[index].label;

async function described() {
  try {
    const response = await fetch('network.json', { cache: 'no-cache' });
    return await response.json();
  } catch (error) {
    view.showStatus(`network.json cannot be read (${error.message}).`, true);
    throw error;
  }
}

// Returns a test image, with the element that shows it.
async function opened({ file: source, label }, index) {
  const element = new Image();
  element.src = source;
  element.alt = '';
  const right = classNames[label];
  try {
    await element.decode();
  } catch {
    return { element, error: `${source} is no image.` };
  }
  return { element, right, name: `Test image ${index + 1}: ${right}` };
}

// Puts a picture on the page, unless another one was chosen meanwhile.
async function choose({ source, name, right, test }) {
  const mine = ++chosen;
  try {
    const pixels = await pixelsOf(source, shape, description.resize);
    if (mine !== chosen) return;
    view.showPixels(pixels, shape, name);
    view.showChosen(test);
    shown = { pixels, name, right, test };
  } catch (error) {
    if (mine === chosen) {
      view.showStatus(`${name}: ${error.message || 'this is no image.'}`, true);
    }
    return;
  }
  await answer();
}

async function chooseTest(index) {
  const count = tests.length;
  const test = ((index % count) + count) % count;
  const { element, name, right, error } = tests[test];
  stopCamera();
  if (error) view.showStatus(error, true);
  else await choose({ source: element, name, right, test });
}

// Answers anew for the image on the page; where it was run before, only what is missing runs.
async function answer() {
  const mine = ++asked;
  let found;
  if (network?.rings && shown) {
    shown.image ??= imageOf(shown);
    found = await network.answer(shown.image, point(), cap());
    if (mine !== asked) return;
    for (const each of found.run) each.name = classNames[each.label];
  }
  view.showAnswer(found, description, shown?.right);
  view.showPrecisions(description, loads, found, point(), cap());
}

// Test images keep what they ran, so the one on the page and the one in the list are the same.
function imageOf({ test, pixels }) {
  if (test === undefined) return network.image(pixels);
  return (tests[test].image ??= network.image(pixels));
}

// Runs the test images, one at a time, so that the page stays alive; a later call takes over.
async function tally() {
  const mine = ++tallies;
  for (const [index, test] of tests.entries()) {
    if (test.error) continue;
    test.image ??= network.image(await pixelsOf(test.element, shape, description.resize));
    const found = await network.answer(test.image, point(), cap());
    if (mine !== tallies) return;
    answers[index] = found;
    view.showTest(index, test.name, found, description, isRight(index));
    await new Promise((resume) => setTimeout(resume));
  }
  view.showTally(answers, answers.map((_, index) => isRight(index)), description);
}

async function refresh() {
  view.showPoint(point(), Number(slider.value) === description.current);
  await answer();
  // The next ring does not wait for these.
  if (network?.rings) tally();
}

// Loads the runtime, and then ring after ring; each is used as soon as it is here.
async function load() {
  byId('again').hidden = true;
  if (!network && !(await loadRuntime())) return;
  while (network.rings < rings.length) {
    const index = network.rings;
    const ring = rings[index];
    try {
      loads[index] = {};
      const { content, milliseconds } = await download(ring, (here) => {
        loads[index].here = here;
        view.showPrecisions(description, loads, undefined, point(), cap());
      });
      await network.add(content);
      loads[index] = { milliseconds };
    } catch (error) {
      broken(index, error);
      return;
    }
    view.showStatus(index + 1 < rings.length
      ? `${ring.precision} bits are here; ${rings[index + 1].precision} bits are arriving.`
      : 'All rings are here; nothing more is loaded.');
    await refresh();
  }
}

async function loadRuntime() {
  const entry = description.runtime;
  try {
    const { content, milliseconds } = await download(entry, (here) => {
      view.showRuntime(entry, { here });
    });
    network = new Network(await startRuntime(content), description);
    view.showRuntime(entry, { milliseconds });
    return true;
  } catch (error) {
    view.showRuntime(entry, { error: error.message });
    view.showStatus(`The runtime could not be started: ${error.message}`, true);
    byId('again').hidden = false;
    return false;
  }
}

function broken(index, error) {
  loads[index] = { error: error.message };
  for (let above = index + 1; above < rings.length; above++) {
    loads[above] = { error: `needs the ring of ${bits[index]} bits.` };
  }
  const rest = index ? `The network goes on at up to ${bits[index - 1]} bits.` : 'Nothing can run.';
  view.showStatus(`${error.message} ${rest}`, true);
  byId('again').hidden = false;
  answer();
}

// The camera: one frame after another, each as a picture of its own.
const video = document.createElement('video');
video.muted = true;
video.playsInline = true;

async function startCamera() {
  if (!navigator.mediaDevices) {
    view.showStatus('The camera needs https or localhost: take a picture as a file.', true);
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: 'environment' },
    });
    await video.play();
  } catch (error) {
    stopCamera();
    view.showStatus(`The camera cannot be used: ${error.message}.`, true);
    return;
  }
  camera.setAttribute('aria-pressed', 'true');
  // Not every frame is to be read out.
  byId('answer').setAttribute('aria-live', 'off');
  while (video.srcObject) {
    await choose({ source: video, name: 'The camera' });
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

function stopCamera() {
  chosen++;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  camera.setAttribute('aria-pressed', 'false');
  byId('answer').setAttribute('aria-live', 'polite');
}

function chooseFile(source) {
  if (!source) return;
  stopCamera();
  choose({ source, name: source.name });
}

const step = (by) => chooseTest((shown?.test ?? (by > 0 ? -1 : 0)) + by);
byId('previous').addEventListener('click', () => step(-1));
byId('next').addEventListener('click', () => step(1));
byId('again').addEventListener('click', load);
file.addEventListener('change', () => chooseFile(file.files[0]));
camera.addEventListener('click', () => (video.srcObject ? stopCamera() : startCamera()));
slider.addEventListener('input', refresh);
most.addEventListener('change', refresh);
byId('back').addEventListener('click', () => {
  slider.value = description.current;
  slider.focus();
  refresh();
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
});
addEventListener('dragleave', () => document.body.classList.remove('dropping'));
addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  chooseFile(event.dataTransfer.files[0]);
});

view.showStatus('The runtime is arriving.');
view.showNetwork(description);
slider.value = description.current;
view.showTests({ ...description, images: tests }, chooseTest);
for (const control of [slider, most, file, camera]) control.disabled = false;
for (const id of ['previous', 'next']) byId(id).disabled = !tests.length;
await refresh();
if (tests.length) await chooseTest(0);
await load();
