// What a search and a sort order leave of the samples; knows nothing of the page.

function outcomeOf(sample) {
  if (sample.prediction === null) return "unanswered";
  const right = sample.scores.protocol ?? sample.scores.exact_match;
  return right === undefined ? "open" : right === 1 ? "right" : "wrong";
}

function selectSamples(samples, panoramas, { search = "", type = "", outcome = "" }) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return samples.filter((sample) => {
    if (type && sample.type !== type) return false;
    if (outcome && outcomeOf(sample) !== outcome) return false;
    const texts = [sample.id, sample.query, sample.prediction ?? "", ...sample.references, panoramas[sample.panorama].name];
    const text = texts.join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

// Samples without a value come last in both directions; equal ones keep their order.
function sortSamples(samples, key, descending = false) {
  if (!key) return descending ? [...samples].reverse() : [...samples];
  const read = key.startsWith("score:") ? (sample) => sample.scores[key.slice(6)] : (sample) => sample[key];
  const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const missing = (value) => value === undefined || value === null || value === "";
  return [...samples].sort((left, right) => {
    const [a, b] = [read(left), read(right)];
    if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
    return descending ? compare(b, a) : compare(a, b);
  });
}
