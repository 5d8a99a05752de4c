// Two films side by side: window and level through a lookup table, zoom and move, both at once unless told otherwise;
// over them what the networks outlined, each part by itself, and maps that are fetched when they are first asked for.

const $ = (id) => document.getElementById(id);
const FRESH = { window: 255, level: 128, zoom: 1, x: 0, y: 0 };
const MOST_ZOOM = 8;

class Film {
  constructor(stage, image) {
    this.stage = stage;
    this.image = image;
    this.view = { ...FRESH };
    this.canvas = document.createElement("canvas");
    this.canvas.width = image.naturalWidth;
    this.canvas.height = image.naturalHeight;
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.context.drawImage(image, 0, 0);
    const pixels = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    this.grey = new Uint8Array(pixels.data.length / 4);
    for (let i = 0; i < this.grey.length; i += 1) this.grey[i] = pixels.data[4 * i];
    this.pixels = pixels;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", image.alt);
    image.replaceWith(this.canvas);
    this.over = stage.querySelectorAll(".over");
  }

  // LINEAR of DICOM PS3.3 C.11.2.1.2.1, on grey levels 0 to 255.
  paint(inverted) {
    const { window, level } = this.view;
    const table = new Uint8Array(256);
    for (let v = 0; v < 256; v += 1) {
      const y = ((v - (level - 0.5)) / Math.max(1, window - 1) + 0.5) * 255;
      const bounded = Math.min(255, Math.max(0, Math.round(y)));
      table[v] = inverted ? 255 - bounded : bounded;
    }
    const out = this.pixels.data;
    for (let i = 0; i < this.grey.length; i += 1) {
      const g = table[this.grey[i]];
      out[4 * i] = g;
      out[4 * i + 1] = g;
      out[4 * i + 2] = g;
    }
    this.context.putImageData(this.pixels, 0, 0);
  }

  place() {
    const { zoom, x, y } = this.view;
    const moved = `translate(${x * 100}%, ${y * 100}%) scale(${zoom})`;
    this.canvas.style.transform = moved;
    for (const { style } of this.over) {
      style.transform = moved;
      style.setProperty("--zoom", zoom); // lines stay as thin as they are
    }
  }
}

const films = [];
let inverted = false;
let dragging = "window";
let current = 0;

const together = () => $("together")?.getAttribute("aria-pressed") !== "false";
const press = (button, on) => button.setAttribute("aria-pressed", String(on));
const bounded = (value, low, high) => Math.min(high, Math.max(low, value));

let due = false;
function change(index, step) {
  current = index;
  const chosen = together() ? films : [films[index]];
  for (const film of chosen) {
    const view = { ...film.view, ...step(film.view) };
    view.window = bounded(view.window, 8, 512);
    view.level = bounded(view.level, 0, 255);
    view.zoom = bounded(view.zoom, 1, MOST_ZOOM);
    const reach = (view.zoom - 1) / 2 + 0.0001;
    view.x = bounded(view.x, -reach, reach);
    view.y = bounded(view.y, -reach, reach);
    film.view = view;
  }
  if (!due) {
    due = true;
    requestAnimationFrame(() => {
      due = false;
      show();
    });
  }
}

function show() {
  for (const film of films) {
    film.paint(inverted);
    film.place();
  }
  const { window, level, zoom } = films[current].view;
  $("window").value = window;
  $("level").value = level;
  $("window-value").value = Math.round(window);
  $("level-value").value = Math.round(level);
  $("zoom-value").value = `${Math.round(zoom * 100)} %`;
  for (const { stage } of films) {
    stage.classList.toggle("pans", dragging === "pan");
    stage.classList.toggle("windows", dragging === "window");
  }
}

const KEYS = {
  ArrowLeft: (v) => ({ x: v.x + 0.05 }),
  ArrowRight: (v) => ({ x: v.x - 0.05 }),
  ArrowUp: (v) => ({ y: v.y + 0.05 }),
  ArrowDown: (v) => ({ y: v.y - 0.05 }),
  "+": (v) => ({ zoom: v.zoom * 1.25 }),
  "=": (v) => ({ zoom: v.zoom * 1.25 }),
  "-": (v) => ({ zoom: v.zoom / 1.25 }),
  "[": (v) => ({ window: v.window - 8 }),
  "]": (v) => ({ window: v.window + 8 }),
  ",": (v) => ({ level: v.level - 4 }),
  ".": (v) => ({ level: v.level + 4 }),
  0: () => ({ ...FRESH }),
};

function listen(stage, index) {
  stage.tabIndex = 0;
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-label", `Film viewer ${index + 1}`);
  stage.addEventListener("focus", () => {
    current = index;
    show();
  });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "i") toggleInvert();
    else if (event.key in SHOWS) SHOWS[event.key]();
    else if (event.key in KEYS) {
      // At full size there is nowhere to move to: the arrows then scroll the page as everywhere else.
      if (event.key.startsWith("Arrow") && films[index].view.zoom === 1) return;
      change(index, KEYS[event.key]);
    } else return;
    event.preventDefault();
  });
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    from = { x: event.clientX, y: event.clientY };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    const { width, height } = stage.getBoundingClientRect();
    const [dx, dy] = [(event.clientX - from.x) / width, (event.clientY - from.y) / height];
    from = { x: event.clientX, y: event.clientY };
    if (dragging === "pan" || event.shiftKey) change(index, (v) => ({ x: v.x + dx, y: v.y + dy }));
    else change(index, (v) => ({ window: v.window + 400 * dx, level: v.level + 256 * dy }));
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (from = null));
  stage.addEventListener("wheel", (event) => {
    // Only over a film that is in use: a page must scroll past the others.
    if (document.activeElement !== stage) return;
    event.preventDefault();
    change(index, (v) => ({ zoom: v.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15) }));
  }, { passive: false });
}

const switches = [...document.querySelectorAll("[data-shows]")];
const named = (name) => switches.filter((button) => button.dataset.shows === name);
const isOn = (name) => named(name)[0].getAttribute("aria-pressed") === "true";

function lay(name, on) {
  for (const button of named(name)) press(button, on);
  for (const shape of document.querySelectorAll(`[data-shape="${name}"]`)) shape.classList.toggle("off", !on);
}

const say = (text) => ($("shown").textContent = text);

// Shades of two findings over each other could not be told apart: one at a time.
function toggle(name) {
  const [first] = named(name);
  if (!first) return;
  const on = !isOn(name);
  const { kind, note } = first.dataset;
  if (kind === "heat" || kind === "map") for (const other of [...all("heat"), ...all("map")]) lay(other, false);
  lay(name, on);
  say(on ? note : "");
  if (on && kind === "map") fetchMap(name, note);
}

function fetchMap(name, note) {
  for (const image of document.querySelectorAll(`img[data-shape="${name}"]:not([src])`)) {
    say("Working out the map.");
    image.onload = () => {
      if (isOn(name)) say(note);
    };
    image.onerror = () => {
      image.removeAttribute("src");
      lay(name, false);
      say("This map could not be worked out now.");
    };
    image.src = image.dataset.src;
  }
}

const all = (kind) => [...new Set(switches.filter((b) => b.dataset.kind === kind).map((b) => b.dataset.shows))];

function next(kind) {
  const names = all(kind);
  const shown = names.findIndex(isOn);
  if (shown + 1 < names.length) toggle(names[shown + 1]);
  else if (shown >= 0) toggle(names[shown]);
}

const SHOWS = {
  l: () => {
    const lungs = ["right_lung", "left_lung"].filter((name) => named(name).length);
    const on = !lungs.every(isOn);
    for (const name of lungs) lay(name, on);
  },
  h: () => toggle("heart"),
  z: () => toggle("zones"),
  e: () => next("heat"),
  m: () => next("map"),
  c: () => {
    for (const { dataset } of switches) lay(dataset.shows, false);
    if (switches.length) say("");
  },
};

function toggleInvert() {
  inverted = !inverted;
  press($("invert"), inverted);
  show();
}

function chooseDrag(what) {
  dragging = what;
  press($("drag-window"), what === "window");
  press($("drag-pan"), what === "pan");
  show();
}

function tools() {
  $("window").addEventListener("input", (event) => change(current, () => ({ window: Number(event.target.value) })));
  $("level").addEventListener("input", (event) => change(current, () => ({ level: Number(event.target.value) })));
  $("zoom-in").addEventListener("click", () => change(current, KEYS["+"]));
  $("zoom-out").addEventListener("click", () => change(current, KEYS["-"]));
  $("drag-window").addEventListener("click", () => chooseDrag("window"));
  $("drag-pan").addEventListener("click", () => chooseDrag("pan"));
  $("invert").addEventListener("click", toggleInvert);
  $("together")?.addEventListener("click", (event) => {
    press(event.target, !together());
    if (together()) change(current, () => ({ ...films[current].view }));
  });
  $("reset").addEventListener("click", () => {
    if (inverted) toggleInvert();
    change(current, KEYS[0]);
  });
  for (const button of switches) {
    button.addEventListener("click", () => {
      toggle(button.dataset.shows);
      // From the report below, the film is brought into view.
      if (!button.closest("#viewer")) stages[0].scrollIntoView({ block: "nearest" });
    });
    button.hidden = false;
  }
  for (const group of document.querySelectorAll(".tools")) group.hidden = false;
  $("keys").hidden = false;
}

const stages = [...document.querySelectorAll(".stage")];
await Promise.all(stages.map(async (stage, index) => {
  const image = stage.querySelector("img");
  try {
    await image.decode();
    films[index] = new Film(stage, image);
  } catch {
    stage.replaceChildren(Object.assign(document.createElement("p"), { className: "lost", textContent: "This film could not be loaded. Reload the page." }));
  }
}));
if (stages.every((_, index) => films[index])) {
  stages.forEach(listen);
  tools();
  show();
  document.getElementById("viewer").dataset.ready = "true";
}
