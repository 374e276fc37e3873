// The page: one panorama, one conversation about it. Texts reach the page as text only, never as markup.

const KEY_NAME = "cora-api-key";
const KINDS = ["image/jpeg", "image/png", "image/webp"];
// What base64 and the rest of a request add to a file.
const OVERHEAD = 4 / 3;
const ROOM_FOR_TEXT = 16384;
const WIDTHS = [8192, 6144, 4096, 2048];

const element = (id) => document.getElementById(id);
const server = { model: "", views: [], maxBodyBytes: Infinity };
const state = { file: null, picture: null, turns: [], stop: null };
const colourOf = (index) => `hsl(${(47 * index + 205) % 360} 90% 65%)`;

const viewer = new Viewer(element("canvas"), ({ yaw, pitch, fov }) => {
  element("direction").textContent = `yaw ${yaw.toFixed(0)}° pitch ${pitch.toFixed(0)}° fov ${fov.toFixed(0)}°`;
});

// --- the server

function headers() {
  const key = sessionStorage.getItem(KEY_NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(path, options = {}) {
  try {
    return await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
}

async function meetServer() {
  try {
    const response = await ask("cora/views");
    if (!response.ok) throw await errorOf(response);
    const said = await response.json();
    Object.assign(server, { model: said.model, views: said.views, maxBodyBytes: said.max_body_bytes });
    element("model-name").textContent = said.model;
    element("model-facts").textContent = said.vision_tokens
      ? `sees ${said.views.length} views of ${said.view_size.join(" × ")} pixels as ${said.vision_tokens} tokens`
      : "";
    element("dot").className = "well";
    listViews();
    complain(null);
  } catch (error) {
    element("dot").className = "ill";
    complain(error);
  }
}

function complain(error) {
  element("problem").hidden = error === null;
  element("problem").textContent = error?.message ?? "";
  const wantsKey = error?.status === 401;
  element("key-form").hidden = !wantsKey;
  if (wantsKey) element("key").focus();
}

// --- the panorama

function hint(text) {
  element("hint").textContent = text;
  element("hint").hidden = text === "";
}

async function open(file) {
  if (!KINDS.includes(file.type)) return hint(`${file.name} is no JPEG, PNG or WebP picture.`);
  const address = URL.createObjectURL(file);
  try {
    const image = await decoded(address);
    if (viewer.gl) await viewer.show(address);
    state.picture = await packed(file, image);
    state.file = file;
  } catch {
    return hint(`${file.name} cannot be opened as a picture.`);
  } finally {
    URL.revokeObjectURL(address);
  }
  forget();
  element("welcome").hidden = true;
  element("canvas").hidden = !viewer.gl;
  element("controls").hidden = false;
  viewer.look({ yaw: 0, pitch: 0, fov: 90 });
  element("canvas").dataset.shown = file.name;
  element("question").focus();
}

async function decoded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

// Returns the picture as an address that a request can hold: the file itself where it fits, else a smaller copy.
async function packed(file, image) {
  const most = server.maxBodyBytes - ROOM_FOR_TEXT;
  hint(viewer.gl ? "" : "This browser has no WebGL 2, which looking around needs. Asking works.");
  if (file.size * OVERHEAD <= most) return dataAddress(file);
  const { naturalWidth, naturalHeight } = image;
  for (const width of WIDTHS.filter((width) => width < naturalWidth)) {
    const height = Math.round((naturalHeight * width) / naturalWidth);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
    if (blob && blob.size * OVERHEAD <= most) {
      hint(`The file is larger than this server takes: the model gets a copy of ${width} × ${height} pixels.`);
      return dataAddress(blob);
    }
  }
  // The server says what is too much.
  return dataAddress(file);
}

function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

// --- the views of the model

function listViews() {
  const buttons = server.views.map((view) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const mark = document.createElement("i");
    mark.style.background = view.is_global ? "#fff" : colourOf(view.index);
    const looks = view.is_global ? "everything" : `${view.yaw_deg.toFixed(0)}°, ${view.pitch_deg.toFixed(0)}°`;
    button.append(mark, looks);
    button.title = view.is_global ? "a squashed picture of everything" : `view ${view.index}: yaw ${view.yaw_deg}°, pitch ${view.pitch_deg}°`;
    button.addEventListener("click", () => lookAt(view));
    return button;
  });
  element("views").replaceChildren(...buttons);
  outline();
}

function lookAt(view) {
  if (view.is_global) viewer.look({ yaw: 0, pitch: 0, fov: MAX_FOV });
  else viewer.look({ yaw: view.yaw_deg, pitch: view.pitch_deg, fov: Math.max(view.hfov_deg, view.vfov_deg) * 1.12 });
}

function outline() {
  const shown = element("outlines").checked ? server.views.filter((view) => !view.is_global) : [];
  viewer.outline(shown.map((view) => ({ ...view, colour: rgb(colourOf(view.index)) })));
}

function rgb(colour) {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = colour;
  return [1, 3, 5].map((place) => parseInt(context.fillStyle.slice(place, place + 2), 16) / 255);
}

// --- the conversation

function say(role, text) {
  const turn = Object.assign(document.createElement("li"), { className: role, textContent: text });
  element("turns").append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn;
}

function forget() {
  state.stop?.abort();
  state.stop = null;
  busy(false);
  state.turns = [];
  element("turns").replaceChildren();
  element("clear").hidden = true;
  complain(null);
}

async function answer(question) {
  complain(null);
  const asked = [...state.turns, { role: "user", text: question }];
  const shown = [say("user", question), say("assistant", "")];
  shown[1].classList.add("waiting");
  const stop = new AbortController();
  state.stop = stop;
  busy(true);
  let text = "";
  try {
    const body = JSON.stringify(requestOf(server.model, asked, state.picture, Number(element("length").value)));
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: stop.signal };
    for await (const part of answerParts(await ask("v1/chat/completions", options))) {
      text += part;
      shown[1].textContent = text;
      shown[1].scrollIntoView({ block: "nearest" });
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
  shown[1].classList.remove("waiting");
  if (state.stop !== stop) return; // another panorama was opened meanwhile
  state.stop = null;
  busy(false);
  if (text) {
    state.turns = [...asked, { role: "assistant", text }];
    element("clear").hidden = false;
  } else {
    // What was not answered can be asked again.
    shown.forEach((turn) => turn.remove());
    element("question").value ||= question;
  }
}

function busy(is) {
  element("send").disabled = is;
  element("stop").hidden = !is;
}

// --- the same call elsewhere

async function copy(write) {
  const questions = state.turns.filter(({ role }) => role === "user");
  const call = write({
    origin: new URL(".", location.href).href.replace(/\/$/, ""),
    model: server.model,
    file: state.file ?? { name: "panorama.jpg", type: "image/jpeg" },
    question: element("question").value || questions.at(-1)?.text || "What do you see?",
    maxTokens: Number(element("length").value),
    hasKey: sessionStorage.getItem(KEY_NAME) !== null,
  });
  try {
    await navigator.clipboard.writeText(call);
    element("copied").textContent = "copied";
  } catch {
    element("copied").textContent = "this browser does not let pages copy";
  }
  setTimeout(() => { element("copied").textContent = ""; }, 2500);
}

// --- what people do

function listen() {
  const scene = element("scene");
  for (const button of [element("choose"), element("change")]) {
    button.addEventListener("click", () => element("file").click());
  }
  element("file").addEventListener("change", (event) => {
    if (event.target.files.length) open(event.target.files[0]);
    event.target.value = "";
  });
  // Anywhere on the page: a picture that misses the target would open in its place.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    scene.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) scene.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    scene.classList.remove("dragging");
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) open(event.clipboardData.files[0]);
  });
  element("outlines").addEventListener("change", outline);
  element("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = element("question").value.trim();
    if (!question || state.stop) return;
    if (!state.picture) return hint("Choose a panorama first.");
    element("question").value = "";
    answer(question);
  });
  element("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    element("ask").requestSubmit();
  });
  element("stop").addEventListener("click", () => state.stop?.abort());
  element("clear").addEventListener("click", () => { forget(); element("question").focus(); });
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY_NAME, element("key").value.trim());
    element("key").value = "";
    meetServer();
  });
  element("copy-curl").addEventListener("click", () => copy(curlCall));
  element("copy-python").addEventListener("click", () => copy(pythonCall));
}

listen();
meetServer();
