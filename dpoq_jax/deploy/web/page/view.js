// Draws what is known; nothing is decided here. All text is set as text, whatever it holds.

const byId = (id) => document.getElementById(id);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const time = (milliseconds) =>
  milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
const count = (number) => number.toLocaleString('en');
const size = (bytes) => `${count(bytes)} bytes`;

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Returns a bar filled to a share, with a tick where an image would leave.
function bar(share, tick) {
  const fill = element('div', 'fill');
  fill.style.width = `${100 * share}%`;
  const made = element('div', 'bar', fill);
  made.setAttribute('aria-hidden', 'true');
  if (tick > 0 && tick <= 1) {
    const mark = element('div', 'tick');
    mark.style.left = `${100 * tick}%`;
    made.append(mark);
  }
  return made;
}

const head = (name, state) =>
  element('div', 'head', element('span', '', name), element('span', 'state', state));

// Shows what the network is.
export function showNetwork({ title, bits, image_shape: shape, points }) {
  document.title = title;
  byId('title').textContent = title;
  const [height, width] = shape;
  byId('about').textContent =
    `One network at ${listed(bits)} bits, for images of ${width} x ${height} pixels. An image ` +
    `starts at ${bits[0]} bits and moves on until a precision is confident enough. The network ` +
    'arrives in rings, one for each precision: the first one answers, each further one improves.';
  byId('point').max = points.length - 1;
  byId('most').replaceChildren(...bits.map((each, index) => {
    const option = element('option', '', index ? `up to ${each} bits` : `${each} bits alone`);
    option.value = index;
    return option;
  }));
  byId('most').value = bits.length - 1;
}

const listed = (numbers) => numbers.length < 2
  ? String(numbers) : `${numbers.slice(0, -1).join(', ')} and ${numbers.at(-1)}`;

export function showStatus(text, isWrong = false) {
  byId('status').textContent = text;
  byId('status').classList.toggle('wrong', isWrong);
}

export function showRuntime({ name, bytes }, { here, milliseconds, error }) {
  byId('runtime').textContent = `Runtime: ${name}, ` + (error ??
    (milliseconds === undefined ? `${count(here ?? 0)} of ${size(bytes)}`
      : `${size(bytes)} in ${time(milliseconds)}`) + '. One thread.');
  byId('runtime').classList.toggle('wrong', Boolean(error));
}

// Shows the rings, and what the precisions say of the image.
// `loads` has for each ring the bytes that are here, the time that it took or what is wrong.
export function showPrecisions({ rings }, loads, answer, point, most) {
  byId('precisions').replaceChildren(...rings.map((ring, index) => {
    const load = loads[index];
    const ran = answer?.run[index];
    const threshold = point.thresholds[ring.precision];
    const isExit = answer?.index === index;
    const item = element('li', isExit ? 'exit' : '');
    const isLast = index === most || index === rings.length - 1;
    const share = ran ? ran.confidence : load.milliseconds === undefined
      ? (load.here ?? 0) / ring.bytes : 0;
    // It would move on if a further ring were here.
    const waits = isExit && !isLast && ran.confidence < threshold;
    const where = waits ? 'waits for more' : isExit ? 'left here'
      : state(load, ran, index, most, answer);
    item.append(
      head(`${ring.precision} bits`, where),
      bar(share, load.milliseconds === undefined || isLast ? 0 : threshold),
    );
    if (ran) {
      const needed = isLast ? 'every image leaves'
        : threshold > 1 ? 'no image leaves' : `leaves from ${percent(threshold)}`;
      item.append(note(`${ran.name}, ${percent(ran.confidence)}; ${needed}; ` +
        `ran in ${time(ran.milliseconds)}`));
    }
    item.append(load.error ? note(load.error, 'wrong') : note(load.milliseconds === undefined
      ? `ring: ${count(load.here ?? 0)} of ${size(ring.bytes)}`
      : `ring: ${size(ring.bytes)} in ${time(load.milliseconds)}`));
    return item;
  }));
}

const note = (text, more = '') => element('p', `note ${more}`, text);

function state(load, ran, index, most, answer) {
  if (ran) return 'moved on';
  if (load.error) return 'not here';
  if (load.milliseconds === undefined) return load.here ? 'arriving' : 'waiting';
  if (index > most) return 'switched off';
  return answer ? 'not needed' : 'here';
}

// Shows what the exit predicts; `right` is the name of the right class, if that is known.
export function showAnswer(answer, { bits, class_names: names }, right) {
  if (!answer) {
    byId('answer').textContent = 'None yet.';
    byId('classes').replaceChildren();
    return;
  }
  const found = names[answer.label];
  const verdict = right === undefined ? '' : right === found ? '; right' : `; the label is ${right}`;
  byId('answer').replaceChildren(
    element('strong', '', found),
    `${percent(answer.shares[answer.label])}, left at ${bits[answer.index]} bits after ` +
      `${time(answer.milliseconds)}${verdict}`,
  );
  const order = answer.shares.map((_, index) => index)
    .sort((a, b) => answer.shares[b] - answer.shares[a] || a - b);
  byId('classes').replaceChildren(...order.slice(0, 5).map((index) => element(
    'li', '', head(names[index], percent(answer.shares[index])), bar(answer.shares[index]))));
}

// Shows the pixels that the network sees.
export function showPixels(pixels, [height, width, channels], name) {
  const canvas = byId('seen');
  [canvas.width, canvas.height] = [width, height];
  const shown = new ImageData(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += channels, to += 4) {
    for (let c = 0; c < 3; c++) shown.data[to + c] = pixels[from + (channels === 3 ? c : 0)];
    shown.data[to + 3] = 255;
  }
  canvas.getContext('2d').putImageData(shown, 0, 0);
  canvas.setAttribute('aria-label', `${name}, as the network sees it`);
  byId('name').textContent = name;
}

// Shows what an operating point is worth.
export function showPoint(point, isCurrent) {
  const { reported } = point;
  const text = reported
    ? `On ${count(reported.examples)} test images: accuracy ` +
      `${percent(reported.accuracy)}, ${reported.average_bits.toFixed(2)} bits on average, ` +
      `${reported.relative_cost.toFixed(2)} times the cost of the lowest precision`
    : `An image leaves at a confidence of ${percent(Object.values(point.thresholds)[0])}`;
  byId('worth').textContent = `${text}${isCurrent ? '; the exported point.' : '.'}`;
  byId('point').setAttribute('aria-valuetext', byId('worth').textContent);
  byId('back').disabled = isCurrent;
}

// Makes a button for each test image; `onChoose` is called with its index.
export function showTests({ images, source }, onChoose) {
  byId('tests').hidden = !images.length;
  byId('source').textContent = source;
  byId('thumbs').replaceChildren(...images.map(({ element: picture }, index) => {
    const button = element('button', '', picture, element('span', '', '...'));
    button.type = 'button';
    button.addEventListener('click', () => onChoose(index));
    return element('li', '', button);
  }));
}

export function showTest(index, name, answer, { bits, class_names: names }, isRight) {
  const button = byId('thumbs').children[index].firstChild;
  const text = button.querySelector('span');
  text.textContent = `${isRight ? '\u2713' : '\u2717'} ${bits[answer.index]} bits`;
  text.className = isRight ? '' : 'wrong';
  const label = `${name}: left at ${bits[answer.index]} bits as ${names[answer.label]}`;
  button.setAttribute('aria-label', label);
  button.title = label;
}

export function showChosen(chosen) {
  [...byId('thumbs').children].forEach((item, index) => {
    item.firstChild.setAttribute('aria-pressed', String(index === chosen));
  });
}

// Shows where the test images left that were run so far.
export function showTally(answers, rights, { bits }) {
  const known = answers.filter(Boolean);
  const exits = bits.map((each, k) =>
    `${known.filter((answer) => answer.index === k).length} at ${each} bits`);
  const total = known.reduce((sum, answer) => sum + answer.milliseconds, 0);
  byId('tally').textContent = known.length
    ? `Of ${known.length} images leave ${listed(exits)}; ${rights.filter(Boolean).length} are ` +
      `labelled right; ${time(total / known.length)} each on average.`
    : '';
}
