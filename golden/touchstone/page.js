"use strict";
// The page's four parts: the data, what is chosen, what is drawn, what the reader does.
// Letters are the book's: T bytes of text, query t, position s <= t, k chosen a query.

// ---- the data ----

const about = JSON.parse(document.getElementById("about").textContent);
const T = about.text.length;
const UNIT = 65535; // a share of 1
// Causal pairs lie row by row: query t has t + 1 of them, from here on.
const row = (t) => (t * (t + 1)) / 2;

// page.py's `packed`: for each stage and layer three arrays of uint16 over the causal pairs. -> layers[stage][layer]
async function unpacked() {
  const text = atob(document.getElementById("tensors").textContent);
  const deflated = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new DataView(await new Response(stream).arrayBuffer());
  let at = 0;
  const next = () => {
    const numbers = Uint16Array.from({ length: row(T) }, (_, i) => bytes.getUint16(at + 2 * i, true)); // little-endian
    at += 2 * row(T);
    return numbers;
  };
  return about.stages.map(() =>
    Array.from({ length: about.layers }, () => {
      const layer = { prediction: next(), mass: next(), order: next() };
      layer.heaviest = ranked(layer.mass);
      return layer;
    }),
  );
}

// Each query's positions from the largest value to the smallest, equal ones by the lower position.
function ranked(values) {
  const order = new Uint16Array(row(T));
  for (let t = 0; t < T; ++t) {
    const own = values.subarray(row(t), row(t + 1));
    order.set([...own.keys()].sort((a, b) => own[b] - own[a] || a - b), row(t));
  }
  return order;
}

// ---- what is chosen ----

// The first k of a query's ranking: `order` is the indexer's, `heaviest` that of the best indexer there could be.
const best = (order, t, k) => order.subarray(row(t), row(t) + Math.min(k, t + 1));
const chosen = (layer, t, k) => new Set(best(layer.order, t, k));
const lastOf = (t, k) => Array.from({ length: Math.min(k, t + 1) }, (_, i) => t - i);

// A byte that ought to have been chosen: one of the k heaviest, with more than an even share of the mass, and left out.
function missed(layer, t, k, lit) {
  const even = UNIT / (t + 1);
  return new Set([...best(layer.heaviest, t, k)].filter((s) => !lit.has(s) && layer.mass[row(t) + s] > even));
}

// The share of the dense attention's mass on some positions.
function recall(layer, t, positions) {
  let sum = 0;
  let whole = 0; // the rounded shares of a row do not add up to exactly 1
  for (const s of positions) sum += layer.mass[row(t) + s];
  for (let s = 0; s <= t; ++s) whole += layer.mass[row(t) + s];
  return sum / whole;
}

function meanRecall(layer, choose) {
  let sum = 0;
  for (let t = 0; t < T; ++t) sum += recall(layer, t, choose(t));
  return sum / T;
}

const percent = (x) => (100 * x).toFixed(1) + "\u00a0%"; // a space that no line breaks at

// ---- what is drawn ----

const $ = (id) => document.getElementById(id);
const state = { stage: 0, layer: 0, query: Math.floor(0.8 * T), k: about.topk, shade: "mass" };
let layers; // once unpacked
const current = () => layers[state.stage][state.layer];
const nameOf = (s) => ({ " ": "space", "\u21b5": "new line" })[about.text[s]] ?? about.text[s];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const element = (tag, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
};

const NOTES = {
  dense: "The main model has learnt; its indexer is still as it was drawn by lot. Attends to everything.",
  warmup: "Everything is frozen but the indexer, which has been taught where attention looks. Attends to everything.",
  sparse: "Both have learnt on, each query seeing only the indexer's choice. Attends to the chosen bytes.",
};

function buildOnce() {
  const head = element("tr", {}, element("th", { scope: "col", textContent: "layer" }));
  for (const { name } of about.stages) head.append(element("th", { scope: "col", textContent: name }));
  $("stages").tHead.append(head);
  for (let layer = 0; layer < about.layers; ++layer) {
    const line = element("tr", {}, element("th", { scope: "row", textContent: layer }));
    about.stages.forEach(({ name }, stage) => {
      const button = element("button", { type: "button", onclick: () => show({ stage, layer }) });
      button.dataset.stage = stage;
      button.dataset.layer = layer;
      line.append(element("td", {}, button));
    });
    $("stages").tBodies[0].append(line);
  }
  about.text.forEach((character, s) => {
    const span = element("span", { id: "byte-" + s, textContent: character });
    span.setAttribute("role", "option");
    span.setAttribute("aria-label", `${nameOf(s)}, position ${s}`);
    $("text").append(span);
    if (character === "\u21b5") $("text").append("\n");
  });
  $("k").max = Math.min(T, 4 * about.topk);
  $("source").textContent = about.source;
}

function drawStages() {
  for (const button of $("stages").querySelectorAll("button")) {
    const { stage, layer } = button.dataset;
    const mean = percent(meanRecall(layers[stage][layer], (t) => best(layers[stage][layer].order, t, state.k)));
    button.textContent = mean;
    button.setAttribute("aria-label", `${about.stages[stage].name}, layer ${layer}: mean recall ${mean}`);
    button.setAttribute("aria-pressed", Number(stage) === state.stage && Number(layer) === state.layer);
  }
  const { kind, steps } = about.stages[state.stage];
  $("stage-note").textContent = `After ${steps} steps. ${NOTES[kind]}`;
}

function drawText(lit, misses) {
  const values = state.shade === "mass" ? current().mass : current().prediction;
  const own = values.subarray(row(state.query), row(state.query + 1));
  const largest = Math.max(...own, 1);
  $("text").className = "by-" + state.shade;
  for (let s = 0; s < T; ++s) {
    const span = $("byte-" + s);
    // The root of a share: half as dark is a quarter of the mass, so that small shares can be seen at all.
    span.style.setProperty("--a", s <= state.query ? Math.sqrt(own[s] / largest).toFixed(3) : 0);
    span.classList.toggle("lit", lit.has(s));
    span.classList.toggle("missed", misses.has(s));
    span.classList.toggle("later", s > state.query);
    span.classList.toggle("query", s === state.query);
    span.setAttribute("aria-selected", s === state.query);
  }
  $("text").setAttribute("aria-activedescendant", "byte-" + state.query);
}

function drawTables(lit, misses) {
  const layer = current();
  const { query: t, k } = state;
  const ways = [
    ["the indexer's", (u) => best(layer.order, u, k)],
    ["the best possible", (u) => best(layer.heaviest, u, k)],
    ["the last", (u) => lastOf(u, k)],
  ];
  const rows = ways.map(([name, choose]) => [name, recall(layer, t, choose(t)), meanRecall(layer, choose)]);
  const lot = (u) => Math.min(1, k / (u + 1)); // whatever the mass is
  rows.push(["drawn by lot, on average", lot(t), Array.from({ length: T }, (_, u) => lot(u)).reduce((a, b) => a + b) / T]);
  $("recalls").tBodies[0].replaceChildren(
    ...rows.map(([name, here, mean]) =>
      element("tr", {}, element("th", { scope: "row", textContent: name }),
        element("td", { className: "number", textContent: percent(here) }),
        element("td", { className: "number", textContent: percent(mean) }))),
  );
  const rank = new Map([...best(layer.order, t, T)].map((s, i) => [s, i + 1]));
  $("heaviest").tBodies[0].replaceChildren(
    ...[...best(layer.heaviest, t, 10)].map((s) => {
      const cell = element("td", { className: "context" });
      cell.append(about.text.slice(Math.max(0, s - 4), s).join(""), element("b", { textContent: about.text[s] }),
        about.text.slice(s + 1, Math.min(t + 1, s + 5)).join(""));
      return element("tr", {}, cell,
        element("td", { className: "number", textContent: s }),
        element("td", { className: "number", textContent: percent(layer.mass[row(t) + s] / UNIT) }),
        element("td", { className: "number", textContent: rank.get(s) }),
        element("td", { textContent: lit.has(s) ? "yes" : misses.has(s) ? "missed" : "no" }));
    }),
  );
  const { name } = about.stages[state.stage];
  $("told").textContent =
    `${name}, layer ${state.layer}, query ${t} (${nameOf(t)}): ${lit.size} of ${t + 1} bytes chosen, ` +
    `recall ${percent(rows[0][1])}; mean over queries ${percent(rows[0][2])}`;
}

function drawStrip(lit) {
  const canvas = $("strip");
  const scale = window.devicePixelRatio || 1;
  const width = (canvas.width = Math.round(canvas.clientWidth * scale));
  const height = (canvas.height = Math.round(canvas.clientHeight * scale));
  const pen = canvas.getContext("2d");
  const { mass, prediction } = current();
  const first = row(state.query);
  const end = row(state.query + 1);
  const largest = Math.max(...mass.subarray(first, end), ...prediction.subarray(first, end), 1);
  const step = width / T;
  for (let s = 0; s <= state.query; ++s) {
    for (const [values, upwards, tint] of [[mass, true, "--mass"], [prediction, false, "--score"]]) {
      const length = (values[first + s] / largest) * (height / 2 - 2);
      pen.fillStyle = lit.has(s) ? `rgb(${colour(tint)})` : colour("--quiet");
      pen.globalAlpha = lit.has(s) ? 1 : 0.45;
      pen.fillRect(s * step, upwards ? height / 2 - length : height / 2 + 1, Math.max(1, step * 0.8), length);
    }
  }
  pen.globalAlpha = 1;
  pen.fillStyle = colour("--rule");
  pen.fillRect(0, height / 2, width, 1);
}

// A [T, T] picture: paint(t, s) gives [red, green, blue, opacity from 0 to 1], or nothing.
function drawMatrix(id, paint) {
  const canvas = $(id);
  canvas.width = canvas.height = T;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(T, T);
  for (let t = 0; t < T; ++t)
    for (let s = 0; s <= t; ++s) {
      const [red, green, blue, opacity] = paint(t, s) ?? [0, 0, 0, 0];
      image.data.set([red, green, blue, 255 * opacity], 4 * (t * T + s));
    }
  pen.putImageData(image, 0, 0);
  pen.fillStyle = colour("--ink"); // the query's row, between two lines
  pen.globalAlpha = 0.6;
  pen.fillRect(0, state.query - 1, T, 1);
  pen.fillRect(0, state.query + 1, T, 1);
}

function drawMatrices() {
  const layer = current();
  const tint = (name) => colour(name).split(" ").map(Number);
  for (const [id, values, order, name] of [
    ["matrix-score", layer.prediction, layer.order, "--score"],
    ["matrix-mass", layer.mass, layer.heaviest, "--mass"],
  ]) {
    const rgb = tint(name);
    drawMatrix(id, (t, s) => [...rgb, Math.sqrt(values[row(t) + s] / Math.max(1, values[row(t) + order[row(t)]]))]);
  }
  const lit = Array.from({ length: T }, (_, t) => chosen(layer, t, state.k));
  const misses = lit.map((own, t) => missed(layer, t, state.k, own));
  const blue = [...tint("--score"), 0.75];
  const pink = [...colour("--missed").match(/\w\w/g).map((x) => parseInt(x, 16)), 1];
  drawMatrix("matrix-choice", (t, s) => (lit[t].has(s) ? blue : misses[t].has(s) ? pink : null));
}

// Takes over a change of the state, and draws everything anew.
function show(change = {}) {
  Object.assign(state, change);
  const lit = chosen(current(), state.query, state.k);
  const misses = missed(current(), state.query, state.k, lit);
  drawStages();
  drawText(lit, misses);
  drawTables(lit, misses);
  drawStrip(lit);
  drawMatrices();
  $("k").value = state.k;
  $("k-told").textContent = state.k;
  $("k-note").textContent =
    `The model's own k is ${about.topk}. Another k asks what the same scores would choose; the model is not run again.`;
  for (const radio of $("shades").querySelectorAll("input")) radio.checked = radio.value === state.shade;
  remember();
}

// ---- what the reader does ----

// The state is in the address, behind #, so that a place on the page can be linked to.
let timer;
function remember() {
  clearTimeout(timer); // browsers refuse many changes a second
  timer = setTimeout(() => history.replaceState(null, "", "#" + new URLSearchParams(state)), 300);
}

function recalled() {
  const given = new URLSearchParams(location.hash.slice(1));
  const limits = { stage: [0, about.stages.length - 1], layer: [0, about.layers - 1], query: [0, T - 1], k: [1, T] };
  const found = {};
  for (const [name, [least, most]] of Object.entries(limits)) {
    const number = Number(given.get(name) ?? NaN);
    if (Number.isInteger(number)) found[name] = Math.min(most, Math.max(least, number));
  }
  if (["mass", "score"].includes(given.get("shade"))) found.shade = given.get("shade");
  return found;
}

// The byte in the line above or below that is nearest to the query's.
function inNextLine(direction) {
  const from = $("byte-" + state.query);
  let found = state.query;
  let line = null;
  for (let s = state.query + direction; s >= 0 && s < T; s += direction) {
    const { offsetTop, offsetLeft } = $("byte-" + s);
    if (offsetTop === from.offsetTop) continue;
    line ??= offsetTop;
    if (offsetTop !== line) break;
    const nearer = Math.abs(offsetLeft - from.offsetLeft) < Math.abs($("byte-" + found).offsetLeft - from.offsetLeft);
    if (found === state.query || nearer) found = s;
  }
  return found;
}

const KEYS = {
  ArrowLeft: () => state.query - 1,
  ArrowRight: () => state.query + 1,
  ArrowUp: () => inNextLine(-1),
  ArrowDown: () => inNextLine(1),
  Home: () => 0,
  End: () => T - 1,
};

function listen() {
  const pick = (query) => show({ query: Math.min(T - 1, Math.max(0, query)) });
  $("text").addEventListener("click", (event) => {
    if (event.target.id.startsWith("byte-")) pick(Number(event.target.id.slice(5)));
  });
  $("text").addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    pick(KEYS[event.key]());
  });
  $("k").addEventListener("input", () => show({ k: Number($("k").value) }));
  $("shades").addEventListener("change", (event) => show({ shade: event.target.value }));
  for (const id of ["matrix-score", "matrix-mass", "matrix-choice"])
    $(id).addEventListener("click", (event) => pick(Math.floor((event.offsetY / $(id).clientHeight) * T)));
  window.addEventListener("hashchange", () => show(recalled()));
  window.addEventListener("resize", () => show());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show());
}

// The layer that the stages taught most: there is most to see.
function mostTaught() {
  const mean = (layer) => meanRecall(layer, (t) => best(layer.order, t, state.k));
  const gains = layers[0].map((layer, i) => mean(layers.at(-1)[i]) - mean(layer));
  return gains.indexOf(Math.max(...gains));
}

async function begin() {
  buildOnce();
  layers = await unpacked();
  listen();
  show({ layer: mostTaught(), ...recalled() });
}

begin().catch((error) => {
  $("told").textContent = `This page could not be drawn (${error.message}): a browser of 2023 or later is needed.`;
});
