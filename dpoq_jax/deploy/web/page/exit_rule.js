// Decides where an image leaves, and what is predicted there, as the library does.

// Returns the softmax of `logits / temperature`; of logits that are not finite, equal shares.
export function probabilities(logits, temperature = 1) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const largest = Math.max(...scaled);
  const exponentials = scaled.map((value) => Math.exp(value - largest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  const result = exponentials.map((value) => value / total);
  return result.every(Number.isFinite) ? result : result.map(() => 1 / result.length);
}

// Returns the weighted mean of the probabilities of several precisions.
export function combined(run, weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return run[0].map(
    (_, label) => run.reduce((sum, each, k) => sum + weights[k] * each[label], 0) / total,
  );
}

// Returns the index of the largest value, the first of equal ones.
export const label = (values) => values.indexOf(Math.max(...values));

// By how much a confidence may miss a threshold, as exponentials differ in their last bits.
const SLACK = 2 ** -40;

// Tells whether an image of these probabilities leaves at a precision.
export const leaves = (own, point, bits) =>
  Math.min(Math.max(...own) + SLACK, 1) >= point.thresholds[bits];
