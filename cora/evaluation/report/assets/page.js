// The table of answers and the dialog. Texts of the data reach the page as text only, never as markup.

const PAGE_SIZE = 50;
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const state = { page: 0, shown: [], open: -1, asked: 0 };
const COLUMNS = [
  { label: "panorama" },
  { label: "id", key: "id" },
  { label: "type", key: "type" },
  { label: "question", key: "query", wide: true },
  { label: "reference", wide: true },
  { label: "answer", key: "prediction", wide: true },
  ...data.metrics.map(({ name, label }) => ({ label, key: `score:${name}`, metric: name })),
];

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function viewName(view) {
  if (view.is_global) return `${view.index}: global`;
  return `${view.index}: yaw ${view.yaw_deg.toFixed(0)}° pitch ${view.pitch_deg.toFixed(0)}°`;
}

function referencesOf(sample) {
  return sample.references.join("\n");
}

function pictureButton(sample, position) {
  const panorama = data.panoramas[sample.panorama];
  const button = make("button", { type: "button", className: "picture", title: panorama.name });
  button.setAttribute("aria-label", `look around in ${panorama.name}, question ${sample.id}`);
  if (panorama.thumbnail) button.append(make("img", { src: panorama.thumbnail, alt: "", width: 120, height: 60 }));
  else button.append(make("span", { textContent: panorama.name }));
  button.addEventListener("click", () => openSample(position));
  return button;
}

function tableRow(sample, position) {
  const row = make("tr");
  const cell = (label, properties) => {
    const made = make("td", properties);
    made.dataset.label = label;
    row.append(made);
    return made;
  };
  row.append(make("td", {}, pictureButton(sample, position)));
  cell("id", { textContent: sample.id });
  cell("type", { textContent: sample.type });
  cell("question", { textContent: sample.query, className: "wide" });
  cell("reference", { textContent: referencesOf(sample), className: "wide" });
  const outcome = outcomeOf(sample);
  const answer = outcome === "unanswered" ? sample.error : sample.prediction;
  cell("answer", { textContent: answer, className: `wide ${outcome === "unanswered" ? "error" : outcome}` });
  for (const { name, label } of data.metrics) {
    cell(label, { textContent: sample.scores[name]?.toFixed(3) ?? "–", className: "number" });
  }
  return row;
}

function refresh() {
  const filters = { search: element("search").value, type: element("type").value, outcome: element("outcome").value };
  const key = element("sort").value;
  const descending = element("direction").getAttribute("aria-pressed") === "true";
  state.shown = sortSamples(selectSamples(data.samples, data.panoramas, filters), key, descending);
  const pages = Math.max(1, Math.ceil(state.shown.length / PAGE_SIZE));
  state.page = clamp(state.page, 0, pages - 1);
  const first = state.page * PAGE_SIZE;
  const rows = state.shown.slice(first, first + PAGE_SIZE).map((sample, index) => tableRow(sample, first + index));
  document.querySelector("#samples tbody").replaceChildren(...rows);
  element("count").textContent = `${state.shown.length} of ${data.samples.length} questions`;
  element("pages").textContent = `page ${state.page + 1} of ${pages}`;
  element("previous").disabled = state.page === 0;
  element("next").disabled = state.page === pages - 1;
  for (const header of document.querySelectorAll("#samples th[data-key]")) {
    header.ariaSort = header.dataset.key === key ? (descending ? "descending" : "ascending") : "none";
  }
}

function sortBy(key, descending) {
  element("sort").value = key;
  element("direction").setAttribute("aria-pressed", String(descending));
  element("direction").textContent = descending ? "descending" : "ascending";
  state.page = 0;
  refresh();
}

function turnPage(step) {
  state.page += step;
  refresh();
  element("answers").scrollIntoView();
}

const viewer = new Viewer(element("canvas"), ({ yaw, pitch, fov }) => {
  element("direction-shown").textContent = `yaw ${yaw.toFixed(1)}° pitch ${pitch.toFixed(1)}° fov ${fov.toFixed(0)}°`;
});

function showDetails(sample) {
  const entries = [
    ["panorama", data.panoramas[sample.panorama].name],
    ["id", sample.id],
    ["type", sample.type],
    ["question", sample.query],
    ["choices", sample.choices.join("\n")],
    ["reference", referencesOf(sample)],
    ["answer", sample.prediction ?? ""],
    ["no answer because", sample.error],
    ...data.metrics.map(({ name, label }) => [label, sample.scores[name]?.toFixed(4) ?? ""]),
  ];
  const lines = entries.filter(([, text]) => text !== "").flatMap(([term, text]) => [
    make("dt", { textContent: term }),
    make("dd", { textContent: text }),
  ]);
  element("details").replaceChildren(...lines);
}

async function openSample(position) {
  state.open = position;
  state.asked += 1;
  const asked = state.asked;
  const sample = state.shown[position];
  const panorama = data.panoramas[sample.panorama];
  const why = panorama.viewer ? (viewer.gl ? "" : "This browser has no WebGL 2, which looking around needs.") : panorama.why;
  showDetails(sample);
  element("before").disabled = position === 0;
  element("after").disabled = position === state.shown.length - 1;
  element("missing").textContent = why;
  element("missing").hidden = why === "";
  element("canvas").hidden = why !== "";
  element("views").hidden = why !== "";
  choose(null);
  if (!element("viewer").open) element("viewer").showModal();
  element(why ? "close" : "canvas").focus();
  delete element("canvas").dataset.shown;
  if (why) return;
  await viewer.show(panorama.viewer);
  if (asked === state.asked) element("canvas").dataset.shown = sample.id;
}

// Looks where a view of the model looks and outlines it, or looks ahead.
function choose(view) {
  for (const button of element("views").children) button.ariaPressed = String(button.dataset.index === String(view?.index));
  viewer.outline(view && !view.is_global ? [view] : []);
  if (view === null || view.is_global) viewer.look({ yaw: 0, pitch: 0, fov: view ? MAX_FOV : 90 });
  else viewer.look({ yaw: view.yaw_deg, pitch: view.pitch_deg, fov: Math.max(view.hfov_deg, view.vfov_deg) * 1.15 });
}

function step(by) {
  const position = state.open + by;
  if (position >= 0 && position < state.shown.length) openSample(position);
}

function prepare() {
  const header = document.querySelector("#samples thead tr");
  element("sort").append(new Option("table order", ""));
  for (const { label, key, metric } of COLUMNS) {
    const cell = make("th", { scope: "col", className: metric ? "number" : "" });
    header.append(cell);
    if (!key) {
      cell.textContent = label;
      continue;
    }
    cell.dataset.key = key;
    element("sort").append(new Option(label, key));
    const button = make("button", { type: "button", textContent: label });
    button.addEventListener("click", () => sortBy(key, cell.ariaSort === "ascending"));
    cell.append(button);
  }
  for (const type of new Set(data.samples.map((sample) => sample.type))) {
    if (type) element("type").append(new Option(type, type));
  }
  for (const view of data.views) {
    const button = make("button", { type: "button", textContent: viewName(view) });
    button.dataset.index = view.index;
    button.addEventListener("click", () => choose(view));
    element("views").append(button);
  }
  for (const name of ["search", "type", "outcome"]) {
    element(name).addEventListener("input", () => { state.page = 0; refresh(); });
  }
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("sort").addEventListener("input", () => sortBy(element("sort").value, false));
  element("direction").addEventListener("click", (event) =>
    sortBy(element("sort").value, event.target.getAttribute("aria-pressed") !== "true"));
  element("previous").addEventListener("click", () => turnPage(-1));
  element("next").addEventListener("click", () => turnPage(1));
  element("before").addEventListener("click", () => step(-1));
  element("after").addEventListener("click", () => step(1));
  element("close").addEventListener("click", () => element("viewer").close());
  element("viewer").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
  refresh();
}

prepare();
