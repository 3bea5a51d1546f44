// Pellucid Insights: one module for the web page, the notebook widget and the exported file.
//
// What differs between the three is the transport: how a question reaches the answers.
//   ask(name, given)                 -> a promise of an object
//   follow(name, given, tell, signal) -> a promise; tell(event) for each event: queued, passes, progress, result, error, cancelled
// Data never becomes markup: elements are made with `h`, texts are texts.

// ---------------------------------------------------------------------------------------------------------- elements

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "value") element.value = value;
    else if (name === "checked" || name === "disabled" || name === "open" || name === "selected") element[name] = true;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
const hidden = (...words) => h("span", { class: "p-hidden" }, ...words);

let numbers = 0;
const fresh = (word) => `pellucid-${word}-${++numbers}`;

function labelled(text, control, props) {
  control.id ||= fresh("field");
  return h("div", { class: "p-field", ...props }, h("label", { for: control.id }, text), control);
}

function select(options, value, change, props) {
  const made = options.map((o) => h("option", { value: o.value, selected: String(o.value) === String(value) }, o.text));
  return h("select", { ...props, on: { change: (event) => change(event.target.value) } }, made);
}

const button = (text, click, props) => h("button", { type: "button", ...props, on: { click } }, text);

// ------------------------------------------------------------------------------------------------------------ numbers

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const bytesOf = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 1) : size >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(digits);
  return text.replace("-", "−");
}

function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share === 0 || share === 1) return `${100 * share} %`;
  if (share > 0.9995 && share < 1) return ">99.9 %";
  return share > 0 && share < 0.001 ? "<0.1 %" : `${number(100 * share)} %`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const duration = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(1000 * seconds))}\u00a0ms` : `${number(seconds)}\u00a0s`);
const pretty = (name) => name.replaceAll("_", " ");

// Keeping one sign, then the size below which all but `outliers` percent of the total lie.
const SIGNS = {
  all: ["both signs", (v) => v],
  positive: ["for the class only", (v) => Math.max(v, 0)],
  negative: ["against it only", (v) => Math.min(v, 0)],
  absolute: ["sizes", (v) => Math.abs(v)],
};

function limitOf(values, outliers) {
  const sizes = Float64Array.from(values, Math.abs).filter((v) => Number.isFinite(v) && v > 0).sort();
  let total = 0;
  for (const size of sizes) total += size;
  const wanted = total * (1 - outliers / 100);
  let reached = 0;
  for (const size of sizes) {
    reached += size;
    if (reached >= wanted * (1 - 1e-12)) return size;
  }
  return 0;
}

// ------------------------------------------------------------------------------------------------------------ colours

const colours = { shades: [[33, 102, 172], [247, 247, 247], [178, 24, 43]], bad: [154, 154, 154] };

function shade(share) {
  // From -1 (against) through 0 (nothing) to 1 (for).
  if (Number.isNaN(share)) return colours.bad;
  const place = ((Math.max(-1, Math.min(1, share)) + 1) / 2) * (colours.shades.length - 1);
  const below = Math.floor(place), part = place - below;
  const one = colours.shades[below], other = colours.shades[Math.min(below + 1, colours.shades.length - 1)];
  return one.map((v, i) => v + (other[i] - v) * part);
}

const css = (rgb) => `rgb(${rgb.map((v) => Math.round(v)).join(" ")})`;

function inkOn(rgb) {
  const linear = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.179 ? "#fff" : "#111";
}

// ------------------------------------------------------------------------------------------------------------ painting

function pictureData(picture) {
  const { height, width, channels } = picture, bytes = bytesOf(picture.data);
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels * i + (channels >= 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

function sheet(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A canvas that shows an image enlarged without blurring its pixels.
function enlarge(canvas, image, wide) {
  const scale = image.width >= wide ? wide / image.width : Math.max(1, Math.floor(wide / image.width));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(sheet(image), 0, 0, canvas.width, canvas.height);
  return canvas;
}

function thumbnail(picture) {
  return enlarge(h("canvas", { class: "p-thumb", "aria-hidden": "true" }), pictureData(picture), 40);
}

// The attributions over a lightened picture: the picture says where, the colour says how much.
function overlay(map, unit, look) {
  const [height, width] = map.shape;
  const image = new ImageData(width, height), keep = SIGNS[look.sign][1];
  const ground = map.picture ? resampled(map.picture, width, height) : null;
  for (let i = 0; i < height * width; i++) {
    const value = map.values[i], share = unit ? keep(value) / unit : Number.isNaN(value) ? NaN : 0;
    // Multiplied, like ink on a print: the colour keeps its hue, and the picture shows through as light and dark.
    const rgb = shade(share), light = ground ? 1 - (1 - ground[i] / 255) * 0.5 : 1;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = light * (ground ? 255 - (255 - rgb[c]) * look.opacity : rgb[c]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

function resampled(picture, width, height) {
  const bytes = bytesOf(picture.data), grey = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(picture.height - 1, Math.floor(((y + 0.5) * picture.height) / height));
    for (let x = 0; x < width; x++) {
      const at = (row * picture.width + Math.min(picture.width - 1, Math.floor(((x + 0.5) * picture.width) / width))) * picture.channels;
      grey[y * width + x] = picture.channels >= 3 ? 0.299 * bytes[at] + 0.587 * bytes[at + 1] + 0.114 * bytes[at + 2] : bytes[at];
    }
  }
  return grey;
}

function colourBar(unit, clipped, label, sign) {
  const bar = h("canvas", { class: "p-bar", "aria-hidden": "true" });
  const low = sign === "positive" || sign === "absolute" ? 0 : -1, high = sign === "negative" ? 0 : 1;
  const image = new ImageData(120, 1);
  for (let x = 0; x < 120; x++) {
    const rgb = shade(low + ((high - low) * x) / 119);
    image.data.set([...rgb, 255], 4 * x);
  }
  bar.width = 240;
  bar.height = 10;
  bar.getContext("2d").drawImage(sheet(image), 0, 0, 240, 10);
  const ends = [low * unit, high * unit].map((v, i) => `${clipped ? (i ? "≥ " : v ? "≤ " : "") : ""}${number(v)}`);
  return h("div", { class: "p-scale" }, bar, h("div", { class: "p-ends" }, h("span", {}, ends[0]), low && high ? h("span", {}, "0") : null, h("span", {}, ends[1])), h("div", { class: "p-note" }, label));
}

// ---------------------------------------------------------------------------------------------------------- transports

class Told extends Error {
  constructor(told) {
    super(told?.message ?? "something went wrong");
    this.type = told?.type ?? "Error";
  }
}

const LOST = { type: "ConnectionLost", message: "the program behind this page does not answer; if it still runs, try again" };

class Http {
  constructor(key) {
    this.headers = { "Content-Type": "application/json", Authorization: `Bearer ${key}` };
  }

  async send(name, given, signal) {
    let response;
    try {
      response = await fetch(`api/${name}`, { method: "POST", headers: this.headers, body: JSON.stringify(given), signal, credentials: "omit" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Told(LOST);
    }
    if (response.ok) return response;
    let told;
    const text = await response.text();
    try {
      told = JSON.parse(text).error;
    } catch {
      told = { type: `HTTP ${response.status}`, message: text };
    }
    throw new Told(told);
  }

  async ask(name, given) {
    return (await this.send(name, given)).json();
  }

  async follow(name, given, tell, signal) {
    const reader = (await this.send(name, given, signal)).body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
        rest = parts.pop();
        for (const part of parts) tell(JSON.parse(part.slice("data: ".length)));
      }
    } catch (error) {
      throw error.name === "AbortError" ? error : new Told(LOST);
    }
  }
}

// Messages of a notebook's widget; every question has a number, and its answers come back with it.
class Messages {
  constructor(model) {
    this.model = model;
    this.open = new Map();
    this.who = Math.random().toString(36).slice(2);
    model.on("msg:custom", (message) => this.open.get(message.id)?.(message));
  }

  send(name, given, answer) {
    const id = `${this.who}/${++numbers}`;
    this.open.set(id, answer);
    this.model.send({ id, name, given });
    return id;
  }

  // A kernel that is gone, or busy with another cell, answers nothing.
  late(id, reject) {
    return setTimeout(() => {
      this.open.delete(id);
      reject(new Told({ type: "NoAnswer", message: "the kernel does not answer; it may be busy with another cell, or gone" }));
    }, PATIENCE);
  }

  ask(name, given) {
    return new Promise((resolve, reject) => {
      const id = this.send(name, given, (message) => {
        clearTimeout(late);
        this.open.delete(id);
        if (message.error) reject(new Told(message.error));
        else resolve(message.value);
      });
      const late = this.late(id, reject);
    });
  }

  follow(name, given, tell, signal) {
    return new Promise((resolve, reject) => {
      const id = this.send(name, given, (message) => {
        clearTimeout(late);
        if (message.event) return tell(message.event);
        this.open.delete(id);
        if (message.error) reject(new Told(message.error));
        else resolve();
      });
      const late = this.late(id, reject);
      signal?.addEventListener("abort", () => {
        clearTimeout(late);
        this.open.delete(id);
        this.model.send({ id, name: "stop", given: {} });
        reject(new DOMException("given up", "AbortError"));
      });
    });
  }
}

// An exported file: what it does not hold it cannot answer.
class Embedded {
  constructor(data) {
    this.data = data;
    this.answers = new Map(data.answers.map((answer) => [canonical(answer.question), answer.told]));
  }

  async ask(name, given) {
    const answer = { start: () => this.data.start, samples: () => this.samples(given), confusion: () => this.confusion(given), agreement: () => ({ correlation: null }) }[name];
    if (answer) return answer();
    const sample = name === "sample" && this.data.samples.find((one) => one.index === given.index);
    if (sample) return sample;
    throw new Told({ type: "NotInThisFile", message: `this file does not hold that (${name}); open the page it was exported from` });
  }

  async follow(name, given, tell) {
    if (name === "scan") return tell({ n: 0, kind: "result", value: { scanned: this.data.rows.length, stopped: null } });
    const told = name === "explain" && this.answers.get(canonical(given.questions[0]));
    if (told) return tell({ n: 0, kind: "result", value: told });
    if (name === "importance" && this.data.importance) return tell({ n: 0, kind: "result", value: this.data.importance });
    const message = "this file does not hold that explanation; open the page it was exported from";
    return tell({ n: 0, kind: "error", error: { type: "NotInThisFile", message } });
  }

  samples(given) {
    const chosen = this.chosen(given);
    const rows = chosen.slice(given.offset ?? 0, (given.offset ?? 0) + (given.limit ?? 50));
    return { rows, total: chosen.length, all: this.data.rows.length, known: true, scanned: this.data.rows.length };
  }

  chosen(given) {
    const model = given.model ?? 0, words = (given.search ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const tests = {
      correct: (row) => row.correct?.[model] === true,
      incorrect: (row) => row.correct?.[model] === false,
      unlabelled: (row) => row.label === null && !row.error,
      unreadable: (row) => Boolean(row.error || row.said[model]?.error),
    };
    const kept = this.data.rows.filter((row) => {
      const top = row.said[model]?.top[0], present = row.said[model]?.present;
      if (tests[given.verdict] && !tests[given.verdict](row)) return false;
      const predicted = present ? row.said[model].top.filter((one) => present.includes(one.name)).map((one) => one.index) : [top?.index];
      if (given.predicted?.length && !predicted.some((one) => given.predicted.includes(one))) return false;
      if (given.labels?.length && ![row.label].flat().some((one) => given.labels.includes(one))) return false;
      if (((given.low ?? 0) > 0 || (given.high ?? 1) < 1) && !(top && top.probability >= (given.low ?? 0) && top.probability <= (given.high ?? 1))) return false;
      if (given.disagree && new Set(row.said.map((said) => said?.top[0]?.index)).size < 2) return false;
      const text = `#${row.index} ${row.title} ${row.labelName} ${top?.name ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const value = (row) => ({ index: row.index, confidence: row.said[model]?.top[0]?.probability, loss: row.said[model]?.loss, value: row.said[model]?.value, mass: row.mass, health: row.healthy === null ? null : Number(row.healthy) })[given.sort ?? "index"] ?? null;
    const known = kept.filter((row) => value(row) !== null).sort((a, b) => (given.descending ? -1 : 1) * (value(a) - value(b)) || a.index - b.index);
    return [...known, ...kept.filter((row) => value(row) === null)];
  }

  confusion(given) {
    const counts = new Map(), names = new Map();
    let right = 0, total = 0;
    for (const row of this.chosen(given)) {
      const top = row.said[given.model ?? 0]?.top[0];
      if (row.label === null || Array.isArray(row.label) || !top) continue;
      counts.set(`${row.label}/${top.index}`, (counts.get(`${row.label}/${top.index}`) ?? 0) + 1);
      names.set(row.label, row.labelName).set(top.index, top.name);
      total += 1;
      right += row.label === top.index;
    }
    const classes = [...names].map(([index, name]) => ({ index, name })).sort((a, b) => a.index - b.index);
    return { classes, counts: classes.map((a) => classes.map((b) => counts.get(`${a.index}/${b.index}`) ?? 0)), total, accuracy: total ? right / total : null };
  }
}

function canonical(question) {
  const options = Object.entries(question.options ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  const edit = Object.keys(question.edit ?? {}).length ? question.edit : null;
  const { model, index, method, target, versus, probability, layer, seed } = question;
  return JSON.stringify([model ?? 0, index, method, options, target ?? null, versus ?? null, Boolean(probability), layer ?? "", seed ?? 0, edit]);
}

// ---------------------------------------------------------------------------------------------------------------- state

const FILTER = { model: 0, verdict: "all", predicted: [], labels: [], low: 0, high: 1, search: "", disagree: false, sort: "index", descending: false };
const COLUMN = { model: 0, method: "integrated_gradients", options: {}, layer: "", seed: 0 };
const LOOK = { opacity: 0.9, sign: "all", outliers: 2, same: false, merge: true, top: 10, channel: "" };
const LIMIT = 50;
// A browser keeps six connections to one address; each explanation under way holds one.
const COLUMNS = 3;
const PATIENCE = 45_000;

function changed(value, usual) {
  return Object.fromEntries(Object.entries(value).filter(([name, v]) => JSON.stringify(v) !== JSON.stringify(usual[name])));
}

// Only what is known, and of the kind it should be: a link may come from anywhere.
function restored(given, usual) {
  const found = structuredClone(usual);
  for (const [name, value] of Object.entries(usual)) {
    const other = given?.[name];
    if (other !== undefined && typeof other === typeof value && Array.isArray(other) === Array.isArray(value) && other !== null) found[name] = other;
  }
  return found;
}

class State {
  constructor() {
    this.tab = "example";
    this.sample = null;
    this.offset = 0;
    this.filter = structuredClone(FILTER);
    this.columns = [structuredClone(COLUMN)];
    this.target = { class: null, versus: null, probability: false };
    this.look = { ...LOOK };
    this.edit = {};
  }

  write() {
    const parts = new URLSearchParams();
    if (this.tab !== "example") parts.set("tab", this.tab);
    if (this.sample !== null) parts.set("example", this.sample);
    if (this.offset) parts.set("from", this.offset);
    const set = (name, value) => Object.keys(value).length && parts.set(name, JSON.stringify(value));
    set("filter", changed(this.filter, FILTER));
    set("columns", this.columns.map((column) => changed(column, COLUMN)));
    set("target", changed(this.target, { class: null, versus: null, probability: false }));
    set("look", changed(this.look, LOOK));
    set("edit", this.edit);
    return parts.toString();
  }

  read(text) {
    const parts = new URLSearchParams(text);
    const parsed = (name) => {
      try {
        return JSON.parse(parts.get(name) ?? "null");
      } catch {
        return null;
      }
    };
    const whole = (name) => (/^\d{1,9}$/.test(parts.get(name) ?? "") ? Number(parts.get(name)) : null);
    if (["example", "confusion", "importance"].includes(parts.get("tab"))) this.tab = parts.get("tab");
    this.sample = whole("example") ?? this.sample;
    this.offset = whole("from") ?? 0;
    this.filter = restored(parsed("filter"), FILTER);
    const columns = parsed("columns");
    if (Array.isArray(columns) && columns.length) this.columns = columns.slice(0, COLUMNS).map((column) => restored(column, COLUMN));
    const target = parsed("target") ?? {};
    const known = (v) => (Number.isInteger(v) && v >= 0 ? v : null);
    this.target = { class: known(target.class), versus: known(target.versus), probability: target.probability === true };
    this.look = restored(parsed("look"), LOOK);
    if (!SIGNS[this.look.sign]) this.look.sign = "all";
    if (!/^\d{0,2}$/.test(this.look.channel)) this.look.channel = "";
    const edit = parsed("edit");
    if (edit && typeof edit === "object" && !Array.isArray(edit)) this.edit = edit;
  }
}

// ------------------------------------------------------------------------------------------------------- what one sees

// The attributions of one input, drawn by its kind. `unit` is what full colour stands for.
function drawn(part, told, unit, look, wide) {
  if (part.kind === "empty") return h("p", { class: "p-note" }, "not shown");
  if (part.kind === "text" && part.shape.length === 1) return drawnText(part, told, unit, look);
  if (part.shape.length === 1) return drawnBars(part, told, unit, look);
  return drawnMap(part, told, unit, look, wide);
}

function drawnMap(part, told, unit, look, wide) {
  const [height, width] = part.shape;
  let best = 0;
  part.values.forEach((v, i) => (best = Math.abs(v) > Math.abs(part.values[best]) ? i : best));
  const strongest = `${number(part.values[best])} in row ${Math.floor(best / width) + 1}, column ${(best % width) + 1}`;
  const canvas = h("canvas", { class: "p-map", role: "img", "aria-label": `Attributions of ${part.name}, ${height} by ${width}; the strongest is ${strongest}` });
  enlarge(canvas, overlay(part, unit, look), wide);
  const reading = h("div", { class: "p-note p-reading" }, `strongest: ${strongest}`);
  canvas.addEventListener("pointermove", (event) => {
    const x = Math.floor((event.offsetX / canvas.clientWidth) * width), y = Math.floor((event.offsetY / canvas.clientHeight) * height);
    const value = part.values[y * width + x];
    if (value !== undefined) reading.textContent = `row ${y + 1}, column ${x + 1}: ${number(value)}`;
  });
  const keep = SIGNS[look.sign][1];
  const clipped = part.values.some((v) => Math.abs(keep(v)) > unit * (1 + 1e-6));
  const original = part.picture
    ? h("figure", {}, enlarge(h("canvas", { class: "p-picture", role: "img", "aria-label": `The ${part.name} itself` }), pictureData(part.picture), wide), h("figcaption", {}, "input"))
    : null;
  const map = h("figure", {}, canvas, h("figcaption", {}, part.channel === null || part.channel === undefined ? "attribution" : `attribution, channel ${part.channel + 1}`));
  return h("div", {}, h("div", { class: "p-maps" }, original, map), colourBar(unit, clipped, told.unit, look.sign), reading);
}

function drawnText(part, told, unit, look) {
  const keep = SIGNS[look.sign][1];
  const single = part.names.map((text, i) => ({ text, pieces: [i], spaced: true, special: false }));
  const words = (look.merge && part.words.length ? part.words : single).map((word) => ({ ...word, value: word.pieces.reduce((sum, i) => sum + part.values[i], 0) }));
  const line = h("p", { class: "p-words" });
  for (const word of words) {
    const share = unit ? keep(word.value) / unit : 0, rgb = shade(share);
    const strong = Math.abs(share) >= 0.25;
    const shown = h("span", { class: `p-word${strong ? (share > 0 ? " p-for" : " p-against") : ""}`, title: `${word.text}: ${number(word.value)}`, style: { backgroundColor: css(rgb), color: inkOn(rgb) } }, word.text);
    line.append(word.spaced ? " " : "", shown);
  }
  const rows = [...words].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 200);
  const table = h("details", { class: "p-more" }, h("summary", {}, "Values of the words"),
    h("table", { class: "p-values" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "word"), h("th", { scope: "col" }, "attribution"))),
      h("tbody", {}, rows.map((word) => h("tr", {}, h("td", {}, word.text), h("td", { class: "p-number" }, number(word.value)))))));
  const clipped = words.some((word) => Math.abs(keep(word.value)) > unit * (1 + 1e-6));
  return h("div", {}, line, h("p", { class: "p-note" }, "full underline: for the class; dashed: against it"), colourBar(unit, clipped, told.unit, look.sign), table);
}

function drawnBars(part, told, unit, look) {
  const keep = SIGNS[look.sign][1];
  const rows = [...part.values].map((value, i) => ({ name: part.names[i] ?? `feature ${i}`, cell: part.cells[i] ?? "", value }));
  rows.sort((a, b) => Math.abs(keep(b.value)) - Math.abs(keep(a.value)));
  const shown = rows.slice(0, look.top), others = rows.slice(look.top);
  const rest = others.reduce((sum, row) => sum + row.value, 0);
  const most = Math.max(...shown.map((row) => Math.abs(keep(row.value))), Math.abs(others.length ? keep(rest) : 0), 1e-30);
  const oneway = keep(rest) >= 0 && shown.every((r) => keep(r.value) >= 0);
  const bar = (share, value) => (oneway ? sizeBar(share, value) : barOf(share));
  const row = (name, cell, value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "p-number" }, cell), h("td", { class: "p-track" }, bar(keep(value) / most, value)), h("td", { class: "p-number" }, number(value)));
  const total = (name, value) => h("tr", { class: "p-total" }, h("th", { scope: "row" }, name), h("td", {}), h("td", {}), h("td", { class: "p-number" }, number(value)));
  const adds = told.additive && told.baselineScore !== null;
  return h("table", { class: "p-bars" },
    h("caption", { class: "p-hidden" }, `Attributions of ${part.name}`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "feature"), h("th", { scope: "col", class: "p-number" }, "value"), h("th", { scope: "col" }, hidden("bar")), h("th", { scope: "col", class: "p-number" }, "attribution"))),
    h("tbody", {}, adds ? total("score of the baseline", told.baselineScore) : null, shown.map((r) => row(r.name, r.cell, r.value)), others.length ? row(`${others.length} others together`, "", rest) : null, adds ? total("score", told.score) : null));
}

function barOf(share) {
  const width = `${50 * Math.min(1, Math.abs(share))}%`;
  const bar = h("div", { class: `p-fill ${share < 0 ? "p-minus" : "p-plus"}`, style: share < 0 ? { right: "50%", width } : { left: "50%", width } });
  return h("div", { class: "p-rail", "aria-hidden": "true" }, bar);
}

function curveChart(curves) {
  const width = 280, height = 130, left = 34, bottom = 22;
  const all = [...curves.deletion, ...curves.insertion].filter((v) => v !== null);
  const low = curves.probability ? 0 : Math.min(...all), high = curves.probability ? 1 : Math.max(...all, low + 1e-9);
  const line = (values, name) => {
    const points = values.map((v, i) => `${left + (width - left - 6) * curves.shares[i]},${6 + (height - bottom - 6) * (1 - ((v ?? low) - low) / (high - low))}`);
    return svg("polyline", { points: points.join(" "), class: `p-line p-${name}`, fill: "none" });
  };
  const text = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor, class: "p-axis" }, words);
  const words = `Deletion: mean ${number(curves.means.deletion)}; insertion: mean ${number(curves.means.insertion)}`;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "p-chart", role: "img", "aria-label": words },
    svg("path", { d: `M${left} 6V${height - bottom}H${width - 6}`, class: "p-frame", fill: "none" }),
    text(left - 4, 12, "end", number(high, 2)), text(left - 4, height - bottom, "end", number(low, 2)),
    text(left, height - 6, "start", "nothing"), text(width - 6, height - 6, "end", "everything"), line(curves.deletion, "deletion"), line(curves.insertion, "insertion"));
  const what = curves.probability ? "probability" : "score";
  return h("div", {}, chart, h("ul", { class: "p-legend" },
    h("li", { class: "p-deletion" }, `most important taken away first: mean ${what} ${number(curves.means.deletion)} (low is good)`),
    h("li", { class: "p-insertion" }, `most important shown first: mean ${what} ${number(curves.means.insertion)} (high is good)`)));
}

// How like itself a map stays while the model's layers are drawn anew, from the output on.
function dependence({ layers, similarities }) {
  const rows = similarities.map((value, i) => h("tr", {}, h("th", { scope: "row" }, i ? `${i > 1 ? "and " : ""}${layers[i - 1]}` : "as it is"), h("td", {}, barOf(value ?? 0)), h("td", { class: "p-number" }, value === null ? "–" : number(value, 2))));
  return h("div", {}, h("table", { class: "p-bars p-weights" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "drawn anew"), h("th", { scope: "col", colspan: "2" }, "rank correlation with this map"))), h("tbody", {}, rows)),
    h("p", { class: "p-note" }, "Near 0 at the end is good: a map that stays like itself says nothing of what the model has learned."));
}

function healthOf(told) {
  const failed = told.health.filter((check) => !check.passed);
  const verdict = failed.length ? `Look at: ${failed.map((check) => check.name).join(", ")}` : "All checks passed";
  const cost = `${plural(told.cost.forwards, "forward")}, ${plural(told.cost.backwards, "backward")}, ${duration(told.cost.seconds)}${told.cost.tuned.length ? `; model made cheaper: ${told.cost.tuned.map(pretty).join(", ")}` : ""}`;
  return h("details", { class: `p-health ${failed.length ? "p-bad" : "p-good"}` },
    h("summary", {}, h("span", { "aria-hidden": "true" }, failed.length ? "✗ " : "✓ "), verdict, h("span", { class: "p-cost" }, ` · ${cost}`)),
    h("ul", {}, told.health.map((check) => h("li", { class: check.passed ? "" : "p-fault" }, h("strong", {}, `${check.passed ? "✓" : "✗"} ${check.name}`), `: ${check.message}`)),
      h("li", {}, `seed ${told.seed ?? "none"}, weights ${told.weights || "unknown"}, ${told.created}`)));
}

function complaint(error, again) {
  return h("div", { class: "p-error", role: "alert" }, h("strong", {}, `${error.type ?? "Error"}: `), h("span", {}, error.message), again ? button("Try again", again) : null);
}

// Work under way: what is known of it, and a way to end it.
function working(words, stop) {
  const meter = h("progress", { "aria-label": words });
  const text = h("span", {}, words);
  const box = h("div", { class: "p-working" }, meter, text, button("Cancel", stop, { class: "p-cancel" }));
  let began = null;
  const part = (done, total) => {
    began ??= { time: performance.now(), done };
    const left = done > began.done ? (((performance.now() - began.time) / (done - began.done)) * Math.max(0, total - done)) / 1000 : 0;
    meter.max = total;
    meter.value = Math.min(done, total);
    return left > 2 ? `, about ${Math.round(left)} s left` : "";
  };
  const show = (event) => {
    if (event.kind === "queued") text.textContent = event.ahead ? `waiting, ${event.ahead} ahead` : "waiting";
    if (event.kind === "passes") {
      const left = event.expected ? part(event.passes, event.expected) : "";
      text.textContent = `working, ${plural(event.passes, "example")} through the model${event.expected ? ` of about ${event.expected.toLocaleString("en")}` : ""}${left}`;
    }
    if (event.kind === "progress" && event.total) {
      const left = part(event.done, event.total);
      text.textContent = `${event.done.toLocaleString("en")} of ${event.total.toLocaleString("en")}${left}`;
    } else if (event.kind === "progress") text.textContent = `${event.done.toLocaleString("en")} so far`;
  };
  return { box, show };
}

// Ask for work, show it in `place`, and give the result to `done`; returns a function that gives it up.
function carry(transport, name, given, place, words, done, again) {
  const control = new AbortController();
  const { box, show } = working(words, () => {
    control.abort();
    place.replaceChildren(h("p", { class: "p-note p-cancelled" }, "cancelled ", button("Start again", again)));
  });
  place.replaceChildren(box);
  const tell = (event) => {
    if (control.signal.aborted) return;
    if (event.kind === "result") done(event.value);
    else if (event.kind === "error") place.replaceChildren(complaint(event.error, again));
    else if (event.kind === "cancelled") place.replaceChildren(h("p", { class: "p-note p-cancelled" }, "cancelled ", button("Start again", again)));
    else show(event);
  };
  transport.follow(name, given, tell, control.signal).catch((error) => {
    if (error.name !== "AbortError" && !control.signal.aborted) place.replaceChildren(complaint(error, again));
  });
  return () => control.abort();
}

// ----------------------------------------------------------------------------------------------------------------- app

class App {
  constructor(root, transport, { page = true, address = false, still = false } = {}) {
    this.root = root;
    this.transport = transport;
    this.page = page;
    this.address = address;
    this.still = still;
    this.state = new State();
    this.giveUps = [];
    this.letters = true;
    this.listing = 0;
    this.showing = 0;
  }

  async open() {
    this.root.replaceChildren(h("p", { class: "p-note", role: "status" }, "Opening …"));
    try {
      this.start = await this.transport.ask("start", {});
    } catch (error) {
      this.root.replaceChildren(h("div", { class: "pellucid" }, complaint(error, () => this.open())));
      return;
    }
    colours.shades = this.start.colours.diverging;
    this.usual = this.fitting(structuredClone(COLUMN));
    if (this.address && location.hash.length > 1) this.state.read(location.hash.slice(1));
    this.valid();
    this.frame();
    await this.list();
    this.scan();
    await this.begin(true);
  }

  // A link may ask for what nobody knows before everything is predicted: the wrong ones, say.
  begin(first = false) {
    const { state, rows } = this;
    if (!first && (state.sample !== null || !rows?.length)) return undefined;
    state.sample ??= rows?.[0]?.index ?? null;
    this.mark();
    return this.show();
  }

  // A link may name models, methods or examples that are not here.
  valid() {
    const { state, start } = this, models = start.models.length;
    state.columns = state.columns.filter((c) => c.model >= 0 && c.model < models && this.methods(c.model).some((m) => m.name === c.method));
    if (!state.columns.length) state.columns = [structuredClone(this.usual)];
    for (const column of state.columns) if (Array.isArray(column.options)) column.options = {};
    if (!(state.filter.model >= 0 && state.filter.model < models)) state.filter.model = 0;
    if (!start.sorts.includes(state.filter.sort)) state.filter.sort = "index";
    if (!start.verdicts.includes(state.filter.verdict)) state.filter.verdict = "all";
    for (const name of ["predicted", "labels"]) state.filter[name] = state.filter[name].filter(Number.isInteger);
  }

  // A stored run answers by what it stored, a model by every method.
  methods(model) {
    return this.start.methods.filter((m) => m.models.includes(model));
  }

  fitting(column) {
    const methods = this.methods(column.model);
    if (!methods.some((m) => m.name === column.method)) Object.assign(column, { method: (methods.find((m) => m.name === COLUMN.method) ?? methods[0]).name, options: {}, layer: "" });
    return column;
  }

  classes(model = 0) {
    return this.start.models[model].classes;
  }

  say(words) {
    this.live.textContent = words;
  }

  remember() {
    if (this.address) history.replaceState(null, "", `#${this.state.write()}`);
  }

  // The parts of the page that stay.
  frame() {
    const { start } = this;
    this.live = h("div", { class: "p-hidden", role: "status", "aria-live": "polite" });
    this.panels = { example: h("section", {}), confusion: h("section", {}), importance: h("section", {}) };
    const title = start.title || "Insights";
    if (this.page) document.title = `${title} – Pellucid`;
    const sheetOf = (words) => h(this.page ? "h1" : "h2", { class: "p-title" }, words);
    const tools = h("div", { class: "p-tools" },
      this.still ? null : button("Export", () => this.exported(), { class: "p-export", title: "This view as one HTML file" }),
      this.still ? null : button("CSV", () => this.tabled(), { class: "p-csv", title: "The chosen examples as a table", "aria-label": "Save the chosen examples as CSV" }),
      button("Light / dark", () => this.theme(), { class: "p-theme" }), button("Keys", () => this.keys.showModal(), { class: "p-keys" }));
    const notices = start.notices.map((words) => h("p", { class: "p-notice", role: "note" }, words));
    this.banner = h("div", { class: "p-banner" });
    this.side = h(this.page ? "aside" : "div", { class: "p-side", role: this.page ? null : "region", "aria-label": "Examples" });
    const content = h(this.page ? "main" : "div", { class: "p-main", role: this.page ? null : "region", "aria-label": this.page ? null : "Insights" }, this.tabs(), notices, this.banner, Object.values(this.panels));
    this.box = h("div", { class: `pellucid ${this.page ? "p-page" : "p-cell"}` }, h(this.page ? "header" : "div", { class: "p-head" }, sheetOf(title), h("span", { class: "p-note" }, `${start.models.map((m) => m.name).join(", ")} · Pellucid ${start.version}`), tools), this.live, h("div", { class: "p-body" }, this.side, content));
    this.keyHelp();
    this.box.append(this.keys);
    this.root.replaceChildren(this.box);
    this.filters();
    this.tab(this.state.tab);
    if (!this.page) this.box.addEventListener("keydown", (event) => this.key(event));
    else if (!this.listens) document.addEventListener("keydown", (event) => this.key(event));
    this.listens = true;
  }

  tabs() {
    const names = { example: "Example", confusion: "Confusion", importance: "Importance" };
    this.tabButtons = {};
    const bar = h("div", { class: "p-tabs", role: "tablist", "aria-label": "Views" });
    for (const [name, words] of Object.entries(names)) {
      const panel = this.panels[name];
      panel.id = fresh("panel");
      const made = button(words, () => this.tab(name), { role: "tab", id: fresh("tab"), "aria-controls": panel.id });
      fill(panel, { role: "tabpanel", "aria-labelledby": made.id, tabindex: "0" }, []);
      this.tabButtons[name] = made;
      bar.append(made);
    }
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const all = Object.keys(names), next = all[(all.indexOf(this.state.tab) + step + all.length) % all.length];
      this.tab(next);
      this.tabButtons[next].focus();
    });
    return bar;
  }

  tab(name) {
    this.state.tab = name;
    for (const [other, made] of Object.entries(this.tabButtons)) {
      made.setAttribute("aria-selected", String(other === name));
      made.tabIndex = other === name ? 0 : -1;
      this.panels[other].hidden = other !== name;
    }
    this.remember();
    if (name === "confusion") this.confusion();
    if (name === "importance" && !this.panels.importance.hasChildNodes()) this.importance();
    else if (name === "importance") this.sumWords.textContent = this.sumText();
  }

  theme() {
    const dark = this.box.dataset.theme ? this.box.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    this.box.dataset.theme = dark ? "light" : "dark";
    if (this.page) document.documentElement.dataset.theme = this.box.dataset.theme;
  }

  // ------------------------------------------------------------------------------------------------------ the list

  filters() {
    const { start, state } = this, filter = state.filter;
    const change = (name) => (value) => {
      filter[name] = value;
      state.offset = 0;
      this.list();
      if (state.tab === "confusion") this.confusion();
    };
    const words = { all: "all", correct: "correct", incorrect: "incorrect", unlabelled: "without label", unreadable: "unreadable" };
    const verdict = select(start.verdicts.map((v) => ({ value: v, text: words[v] ?? v })), filter.verdict, change("verdict"), { class: "p-verdict" });
    const orders = { index: "number", confidence: "confidence", loss: "loss", value: "output", mass: "attribution mass", health: "health" };
    const sort = select(start.sorts.map((s) => ({ value: s, text: orders[s] ?? s })), filter.sort, change("sort"), { class: "p-sort" });
    const descending = h("input", { type: "checkbox", checked: filter.descending, on: { change: (event) => change("descending")(event.target.checked) } });
    let waiting;
    const search = h("input", { type: "search", value: filter.search, class: "p-search", on: { input: (event) => {
      clearTimeout(waiting);
      this.items.setAttribute("aria-busy", "true");
      waiting = setTimeout(() => change("search")(event.target.value), 200);
    } } });
    const classOptions = (any) => [{ value: "", text: any }, ...this.classes(filter.model).map((name, i) => ({ value: i, text: name }))];
    const ofClass = (name, any) => select(classOptions(any), filter[name][0] ?? "", (v) => change(name)(v === "" ? [] : [Number(v)]), { class: `p-${name}` });
    const share = (name) => h("input", { type: "number", min: "0", max: "100", step: "1", value: String(Math.round(100 * filter[name])), on: { change: (event) => {
      const given = Number(event.target.value);
      change(name)(Math.min(1, Math.max(0, (Number.isFinite(given) ? given : name === "high" ? 100 : 0) / 100)));
    } } });
    const models = start.models.length > 1 ? labelled("Model", select(start.models.map((m, i) => ({ value: i, text: m.name })), filter.model, (v) => {
      filter.model = Number(v);
      this.filters();
      this.list();
    })) : null;
    const disagree = start.models.length > 1 ? labelled("Models disagree", h("input", { type: "checkbox", checked: filter.disagree, on: { change: (event) => change("disagree")(event.target.checked) } }), { class: "p-field p-check" }) : null;
    const few = this.classes(filter.model).length > 0;
    const form = h("form", { class: "p-filters", role: "search", "aria-label": "Filter examples", on: { submit: (event) => event.preventDefault() } },
      models, labelled("Search", search), labelled("Predictions", verdict),
      few ? labelled("Predicted as", ofClass("predicted", "any class")) : null, few ? labelled("Labelled", ofClass("labels", "any class")) : null,
      labelled("Confidence from, %", share("low")), labelled("to, %", share("high")), labelled("Sorted by", sort), labelled("Highest first", descending, { class: "p-field p-check" }), disagree,
      button("Clear filters", () => {
        Object.assign(filter, structuredClone(FILTER), { model: filter.model });
        state.offset = 0;
        this.filters();
        this.list();
        if (state.tab === "confusion") this.confusion();
      }, { class: "p-clear" }));
    this.count = h("p", { class: "p-count" });
    this.scanning ??= h("div", { class: "p-scanning", "aria-busy": "true" });
    this.items ??= h("ul", { class: "p-list", "aria-label": "Examples" });
    this.pager ??= h("div", { class: "p-pager" });
    this.side.replaceChildren(h("details", { class: "p-filterbox", open: this.page }, h("summary", {}, "Filter and sort"), form), this.scanning, this.count, this.items, this.pager);
  }

  async list() {
    const { state } = this, turn = ++this.listing;
    this.remember();
    this.items.setAttribute("aria-busy", "true");
    let found;
    try {
      found = await this.transport.ask("samples", { ...state.filter, method: this.manner(), offset: state.offset, limit: LIMIT });
    } catch (error) {
      if (turn !== this.listing) return;
      this.items.setAttribute("aria-busy", "false");
      this.items.replaceChildren(h("li", {}, complaint(error, () => this.list())));
      return;
    }
    if (turn !== this.listing) return;
    this.items.setAttribute("aria-busy", "false");
    this.rows = found.rows;
    this.found = found;
    const partly = found.scanned < found.all ? `; ${found.scanned.toLocaleString("en")} predicted so far` : "";
    this.count.textContent = `${plural(found.total, "example")} of ${found.all.toLocaleString("en")}${found.known ? "" : " or more"}${partly}`;
    const focused = this.items.contains(document.activeElement) ? document.activeElement.dataset.index : null;
    this.items.replaceChildren(...found.rows.map((row) => this.item(row)));
    if (!found.rows.length) this.items.append(h("li", { class: "p-note" }, "No example passes the filter."));
    if (focused) this.items.querySelector(`[data-index="${focused}"]`)?.focus();
    // An iterable is read on as far as one looks, and predicted as far as it is read.
    if (!found.known && found.scanned < found.all && !this.predicting) this.scan();
    const last = state.offset + found.rows.length;
    const turnTo = (offset) => () => {
      state.offset = Math.max(0, offset);
      this.list();
    };
    this.pager.replaceChildren(
      button("Previous", turnTo(state.offset - LIMIT), { disabled: state.offset === 0, "aria-label": "Previous page" }), h("span", {}, found.total ? `${state.offset + 1}–${last}` : ""),
      button("Next", turnTo(state.offset + LIMIT), { disabled: last >= found.total && found.known, "aria-label": "Next page" }));
  }

  item(row) {
    const model = this.state.filter.model, said = row.said[model], top = said?.top[0];
    const right = row.correct?.[model] ?? null;
    const mark = row.error || said?.error ? "!" : right === null ? "" : right ? "✓" : "✗";
    const verdict = row.error || said?.error ? "unreadable" : right === null ? "" : right ? "correct" : "incorrect";
    const answer = said?.present ? said.present.join(", ") || "no class" : top ? `${top.name} ${percent(top.probability)}` : said?.value !== null && said?.value !== undefined ? number(said.value) : said ? "no answer" : "…";
    const sorted = { loss: said?.loss, mass: row.mass, value: said?.value }[this.state.filter.sort];
    const facts = [row.labelName ? `label ${row.labelName}` : "", sorted !== undefined ? `${this.state.filter.sort} ${number(sorted)}` : "", row.healthy === false ? "look at its health" : ""].filter(Boolean).join(" · ");
    const made = button([], () => this.choose(row.index), { class: "p-item", "data-index": row.index, "aria-current": row.index === this.state.sample ? "true" : null });
    made.append(row.picture ? thumbnail(row.picture) : "", h("span", { class: "p-itemtext" },
      h("span", { class: "p-first" }, h("span", { class: "p-index" }, `#${row.index}`), ` ${row.error ? row.error.type : answer}`, mark ? h("span", { class: `p-mark p-${verdict}`, "aria-hidden": "true" }, mark) : null, verdict ? hidden(` ${verdict}`) : null),
      facts ? h("span", { class: "p-note" }, facts) : null, row.title ? h("span", { class: "p-snippet" }, row.title) : null));
    return h("li", {}, made);
  }

  choose(index) {
    const { state } = this;
    if (index !== state.sample) {
      state.edit = {};
      state.target = { ...state.target, class: null, versus: null };
    }
    state.sample = index;
    this.mark();
    if (state.tab !== "example") this.tab("example");
    return this.show();
  }

  // In the list, the example that is shown.
  mark() {
    for (const made of this.items.querySelectorAll(".p-item")) {
      if (made.dataset.index === String(this.state.sample)) made.setAttribute("aria-current", "true");
      else made.removeAttribute("aria-current");
    }
  }

  async step(by) {
    if (!this.rows?.length) return;
    const place = this.rows.findIndex((row) => row.index === this.state.sample), next = place + by;
    if (next >= 0 && next < this.rows.length) this.choose(this.rows[next].index);
    else if (next >= this.rows.length && this.state.offset + LIMIT < this.found.total) {
      this.state.offset += LIMIT;
      await this.list();
      if (this.rows.length) this.choose(this.rows[0].index);
    } else if (next < 0 && this.state.offset) {
      this.state.offset = Math.max(0, this.state.offset - LIMIT);
      await this.list();
      if (this.rows.length) this.choose(this.rows.at(-1).index);
    }
  }

  scan() {
    let told = -Infinity;
    this.predicting = true;
    this.scanning.setAttribute("aria-busy", "true");
    const tell = (event) => {
      if (event.kind === "result" || event.kind === "error") this.scanning.setAttribute("aria-busy", "false");
      if (event.kind === "result") this.predicting = false;
      if (event.kind === "progress") {
        this.scanning.replaceChildren(h("progress", { max: event.total, value: event.total ? event.done : undefined, "aria-label": "Predicting" }), h("span", { class: "p-note" }, `predicting, ${event.done.toLocaleString("en")}${event.total ? ` of ${event.total.toLocaleString("en")}` : ""}`));
        if (performance.now() - told > 700 || event.done === event.total) {
          told = performance.now();
          this.list();
        }
      } else if (event.kind === "result") {
        this.scanning.replaceChildren(event.value.stopped ? complaint(event.value.stopped) : "");
        this.list().then(() => this.begin());
        if (this.state.tab === "confusion") this.confusion();
      } else if (event.kind === "error") this.scanning.replaceChildren(complaint(event.error, () => this.scan()));
    };
    this.transport.follow("scan", {}, tell).catch((error) => this.scanning.replaceChildren(complaint(error, () => this.scan())));
  }

  // What attribution mass and health are sorted by: the first column, as the session names it.
  manner() {
    const { model, method, options, layer, seed } = this.state.columns[0];
    const { class: target, versus, probability } = this.start.models[model].stored ? { class: null, versus: null, probability: false } : this.state.target;
    return JSON.stringify([method, options, target, versus, probability, layer, seed]);
  }

  // --------------------------------------------------------------------------------------------------- one example

  async show() {
    const { state } = this, panel = this.panels.example, index = state.sample, turn = ++this.showing;
    this.giveUps.splice(0).forEach((giveUp) => giveUp());
    this.remember();
    if (index === null) return panel.replaceChildren(h("p", { class: "p-note" }, "There is no example to show."));
    let sample;
    try {
      sample = await this.transport.ask("sample", { index, edit: state.edit });
    } catch (error) {
      if (turn === this.showing) panel.replaceChildren(complaint(error, () => this.show()));
      return undefined;
    }
    if (turn !== this.showing) return undefined;
    this.sample = sample;
    const label = sample.labelName ? h("span", {}, "labelled ", h("strong", {}, sample.labelName)) : h("span", { class: "p-note" }, "without label");
    const head = h("div", { class: "p-row p-middle" }, h("h2", {}, `Example ${index}${Object.keys(state.edit).length ? ", edited" : ""}`), label, button("Previous", () => this.step(-1), { "aria-label": "Previous example" }), button("Next", () => this.step(1), { "aria-label": "Next example" }));
    if (sample.error) return panel.replaceChildren(head, complaint(sample.error, () => this.show()));
    this.predictions = h("div", { class: "p-predictions" });
    this.cards = h("div", { class: `p-cards${state.columns.length === 1 ? " p-single" : ""}` });
    this.controls = h("div", { class: "p-controls" }, this.targets(), this.looks());
    panel.replaceChildren(...[head, h("div", { class: "p-top" }, this.predictions, this.controls), this.editor(), this.cards].filter(Boolean));
    this.results = [];
    state.columns.forEach((_, i) => this.cards.append(this.card(i)));
    if (state.columns.length < COLUMNS && !this.still && this.start.methods.length > 1) this.cards.append(h("div", { class: "p-add" }, button("Compare with another", () => this.compare(), { class: "p-compare" })));
    this.said();
    this.say(`Example ${index}`);
    return undefined;
  }

  said() {
    const known = this.sample.models.every((model) => model.said || model.error);
    if (known) return this.tellSaid(this.sample.models.map((model) => model.said));
    const given = { index: this.state.sample, edit: this.state.edit };
    this.giveUps.push(carry(this.transport, "predict", given, this.predictions, "predicting", (value) => this.tellSaid(value.said), () => this.said()));
    return undefined;
  }

  tellSaid(said) {
    const { state } = this, before = Object.keys(state.edit).length ? this.rows?.find((row) => row.index === state.sample) : null;
    const of = (model, i) => {
      const answer = said[i], name = this.start.models[i].name;
      const heading = said.length > 1 ? h("h3", {}, name) : null;
      if (model.error) return h("div", {}, heading, complaint(model.error));
      if (answer.error) return h("div", {}, heading, complaint(answer.error));
      if (!answer.top.length) return h("div", {}, heading, h("p", {}, "output ", h("strong", {}, number(answer.value)), answer.loss !== null ? `, squared error ${number(answer.loss)}` : ""));
      const was = before?.said[i]?.top[0];
      const aimed = this.start.models.some((model) => !model.stored), line = (inside) => h("span", { class: "p-pick" }, inside);
      const rows = answer.top.slice(0, 5).map((one) => h("li", {}, (aimed ? button : line)([h("span", { class: "p-class" }, one.name), h("span", { class: "p-meter", "aria-hidden": "true" }, h("span", { style: { width: `${100 * (one.probability ?? 0)}%` } })), h("span", { class: "p-number" }, percent(one.probability))],
        () => this.aim({ class: one.index }), { class: "p-pick", "aria-pressed": String(state.target.class === one.index), title: `Explain ${one.name} (score ${number(one.score)})` })));
      const change = was ? h("p", { class: "p-note p-was" }, was.index === answer.top[0].index ? `before the edit: ${was.name} ${percent(was.probability)}` : `the edit changed the prediction from ${was.name} (${percent(was.probability)}) to ${answer.top[0].name}`) : null;
      return h("div", {}, heading, h("ul", { class: "p-tops", "aria-label": `What ${name} says${aimed ? "; choose a class to explain it" : ""}` }, rows), change);
    };
    this.predictions.replaceChildren(...this.sample.models.map(of));
    // Without names the classes to choose from are those that were predicted.
    if (!this.sample.models.some((model) => model.said)) {
      this.sample.models.forEach((model, i) => (model.said = said[i]));
      this.controls.replaceChildren(...[this.targets(), this.looks()].filter(Boolean));
    }
  }

  aim(change) {
    Object.assign(this.state.target, change);
    return this.show();
  }

  targets() {
    const { state } = this, classes = this.classes(state.columns[0].model), target = state.target;
    const aimed = this.start.models.some((model) => model.targeted);
    const many = classes.length ? classes.map((name, i) => ({ value: i, text: name })) : (this.sample.models[0].said?.top ?? []).map((one) => ({ value: one.index, text: one.name }));
    if (!aimed || this.still || !many.length) return null;
    const pick = (v) => (v === "" ? null : Number(v));
    return h("div", { class: "p-row p-targets", role: "group", "aria-label": "What is explained" },
      labelled("Explain", select([{ value: "", text: "the predicted class" }, ...many], target.class ?? "", (v) => this.aim({ class: pick(v), versus: v === "" ? null : target.versus }), { class: "p-target" })),
      labelled("rather than", select([{ value: "", text: "–" }, ...many], target.versus ?? "", (v) => this.aim({ versus: pick(v), class: target.class ?? this.sample.models[0].said?.top[0]?.index ?? null }), { class: "p-versus" })),
      labelled("by its", select([{ value: "score", text: "score" }, { value: "probability", text: "probability" }], target.probability ? "probability" : "score", (v) => this.aim({ probability: v === "probability" }))));
  }

  looks() {
    const { look } = this.state, change = (name, value) => {
      look[name] = value;
      this.remember();
      this.paint();
    };
    const kinds = this.sample.models.flatMap((model) => model.parts.map((part) => part.kind));
    const channels = Math.max(1, ...this.sample.models.flatMap((model) => model.parts.map((part) => part.channels ?? 1)));
    const choices = [{ value: "", text: "all together" }, ...Array.from({ length: Math.min(channels, 64) }, (_, i) => ({ value: i, text: `${i + 1} of ${channels}` }))];
    const range = (name, low, high, step, words) => labelled(words, h("input", { type: "range", min: String(low), max: String(high), step: String(step), value: String(look[name]), class: `p-${name}`, on: { input: (event) => change(name, Number(event.target.value)) } }));
    const tick = (name, words) => labelled(words, h("input", { type: "checkbox", checked: look[name], on: { change: (event) => change(name, event.target.checked) } }), { class: "p-field p-check" });
    return h("div", { class: "p-row p-looks", role: "group", "aria-label": "How it is drawn" },
      labelled("Show", select(Object.entries(SIGNS).map(([value, [text]]) => ({ value, text })), look.sign, (v) => change("sign", v), { class: "p-sign" })),
      channels > 1 && !this.still ? labelled("Channel", select(choices, look.channel, (v) => this.rechannel(v), { class: "p-channel" })) : null,
      kinds.includes("image") ? range("opacity", 0, 1, 0.05, "Opacity") : null, range("outliers", 0, 20, 0.5, "Clip, %"),
      kinds.includes("table") ? range("top", 3, 50, 1, "Rows") : null, kinds.includes("text") ? tick("merge", "Whole words") : null,
      this.state.columns.length > 1 ? tick("same", "Same scale") : null);
  }

  // ----------------------------------------------------------------------------------------------------- the columns

  compare() {
    const { state, start } = this, last = state.columns.at(-1), used = state.columns.map((c) => c.method);
    const other = start.models.length > 1 && state.columns.length < start.models.length ? { ...structuredClone(last), model: (last.model + 1) % start.models.length } : { ...structuredClone(COLUMN), model: last.model, method: ["input_x_gradient", "saliency", "feature_ablation", "integrated_gradients"].find((name) => !used.includes(name)) ?? "saliency" };
    state.columns.push(this.fitting(other));
    this.show();
  }

  card(i) {
    const { state, start } = this, column = state.columns[i], method = start.methods.find((m) => m.name === column.method);
    const offered = this.methods(column.model);
    const groups = [...new Set(offered.map((m) => m.group))].map((group) => h("optgroup", { label: group }, offered.filter((m) => m.group === group).map((m) => h("option", { value: m.name, selected: m.name === column.method }, pretty(m.name)))));
    const chosen = h("select", { class: "p-method", on: { change: (event) => this.adjust(i, { method: event.target.value, options: {}, layer: "" }) } }, groups);
    const models = start.models.length > 1 ? labelled("Model", select(start.models.map((m, j) => ({ value: j, text: m.name })), column.model, (v) => this.adjust(i, { model: Number(v), layer: "" }), { class: "p-model" })) : null;
    const layers = start.models[column.model].layers;
    const layer = method.layer ? labelled("Layer", select(layers.map((name) => ({ value: name, text: name })), column.layer || start.models[column.model].layer, (v) => this.adjust(i, { layer: v }))) : null;
    const place = h("div", { class: "p-result" });
    const remove = state.columns.length > 1 && !this.still ? button("Remove", () => {
      state.columns.splice(i, 1);
      this.show();
    }, { "aria-label": `Remove comparison ${i + 1}` }) : null;
    const box = h("article", { class: "p-card", "aria-label": `Explanation ${i + 1}` }, h("div", { class: "p-row" }, models, labelled("Method", chosen), layer, remove), this.still ? null : this.options(i, method), place);
    this.results[i] = { place, told: null };
    this.run(i);
    return box;
  }

  adjust(i, change) {
    this.fitting(Object.assign(this.state.columns[i], change));
    const old = this.cards.children[i];
    this.results[i].giveUp?.();
    const made = this.card(i);
    old.replaceWith(made);
    if (change.method) made.querySelector(".p-method").focus();
    this.remember();
  }

  options(i, method) {
    if (this.start.models[this.state.columns[i].model].stored) return null;
    const column = this.state.columns[i], wanted = method.arguments.filter((a) => a.control);
    if (!wanted.length && !method.random) return h("p", { class: "p-note" }, "This method has no arguments.");
    const boxes = wanted.map((argument) => this.argument(column, argument));
    if (method.random) boxes.push(labelled("seed", h("input", { type: "number", min: "0", step: "1", value: String(column.seed), on: { change: (event) => (column.seed = Math.max(0, Math.trunc(Number(event.target.value) || 0))) } })));
    const form = h("form", { class: "p-arguments", on: { submit: (event) => {
      event.preventDefault();
      this.remember();
      this.run(i);
    } } }, boxes, h("button", { type: "submit", class: "p-run" }, "Explain"));
    return h("details", { class: "p-more", open: Object.keys(column.options).length > 0 }, h("summary", {}, "Arguments"), form);
  }

  argument(column, argument) {
    const { name, control, choices, optional } = argument, usual = argument.default, now = column.options[name];
    const set = (value) => {
      if (value === undefined || value === usual) delete column.options[name];
      else column.options[name] = value;
    };
    if (control === "switch") return labelled(pretty(name), h("input", { type: "checkbox", checked: now ?? usual, on: { change: (event) => set(event.target.checked) } }), { class: "p-field p-check" });
    if (control === "choice") {
      const options = [...(optional && usual === null ? [{ value: "", text: "found from the model" }] : []), ...choices.map((value) => ({ value, text: value }))];
      return labelled(pretty(name), select(options, now ?? usual ?? "", (v) => set(v === "" ? undefined : v)));
    }
    const numeric = control === "integer" || control === "number";
    const box = h("input", { type: numeric ? "number" : "text", step: control === "integer" ? "1" : "any", value: now ?? usual ?? "", placeholder: usual === null ? "automatic" : String(usual), "data-argument": name });
    box.addEventListener("change", () => {
      const text = box.value.trim(), found = Number(text);
      const isNumber = text !== "" && Number.isFinite(found);
      set(text === "" ? undefined : numeric || control === "any" ? (isNumber ? found : text) : text);
    });
    return labelled(pretty(name), box);
  }

  question(i) {
    const { state } = this, { model, method, options, layer, seed } = state.columns[i], { class: target, versus, probability } = state.target;
    const question = { index: state.sample, model, method, options, layer, seed, edit: state.edit };
    if (this.start.models[model].stored) return question;
    question.probability = probability;
    if (target !== null) question.target = target;
    if (versus !== null) question.versus = versus;
    return question;
  }

  run(i) {
    const result = this.results[i];
    result.giveUp?.();
    result.told = null;
    const again = () => this.run(i);
    const done = (told) => {
      result.told = { ...told, parts: told.parts.map((part) => ({ ...part, values: decode(part.values) })) };
      if (this.state.look.channel === "") this.paint();
      else this.rechannel(this.state.look.channel);
      this.agree();
      this.say(`Explained by ${pretty(told.method)}`);
    };
    result.giveUp = carry(this.transport, "explain", { questions: [this.question(i)] }, result.place, "waiting", done, again);
    this.giveUps.push(result.giveUp);
  }

  // Of every picture's map the channel that was chosen, or all together where the map has none.
  async channelled(result) {
    const { channel } = this.state.look, parts = result?.told?.parts ?? [];
    await Promise.all(parts.map(async (part, j) => {
      part.all ??= part.values;
      part.channel = !this.still && channel !== "" && part.channels > Number(channel) && part.channels > 1 ? Number(channel) : null;
      if (part.channel === null) part.values = part.all;
      else part.values = decode((await this.transport.ask("channel", { key: result.told.key, part: j, channel: part.channel })).values);
    }));
  }

  async rechannel(channel) {
    this.state.look.channel = channel;
    this.remember();
    try {
      await Promise.all(this.results.map((result) => this.channelled(result)));
      this.paint();
    } catch (error) {
      this.banner.replaceChildren(complaint(error));
    }
  }

  // Draw what was found; the sliders come here too, and ask nobody.
  paint() {
    const { look, columns } = this.state, limits = this.results.map(({ told }) => told?.parts.map((part) => limitOf(sums(part, look).map(SIGNS[look.sign][1]), look.outliers)));
    this.results.forEach((result, i) => {
      if (!result.told) return;
      const { told, place } = result, extras = place.querySelector(".p-extras");
      const parts = told.parts.map((part, j) => {
        const unit = look.same ? Math.max(...limits.filter((l) => l?.[j] !== undefined).map((l) => l[j])) : limits[i][j];
        const share = told.parts.length > 1 ? h("p", { class: "p-note" }, `${part.name}: ${percent(part.share)} of all attribution`, barOf(part.share ?? 0)) : null;
        return h("div", { class: "p-part" }, share, drawn(part, told, unit, look, columns.length > 1 ? 176 : 256));
      });
      const head = h("p", { class: "p-target" }, `${told.target}: score `, h("strong", {}, number(told.score)), told.additive && told.baselineScore !== null ? h("span", { class: "p-note" }, ` (baseline ${number(told.baselineScore)})`) : null);
      const open = [...place.querySelectorAll("details")].map((details) => details.open);
      place.replaceChildren(head, ...parts, healthOf(told), extras ?? this.extras(i));
      place.querySelectorAll("details").forEach((details, j) => (details.open = open[j] ?? false));
    });
  }

  extras(i) {
    const trust = h("div", { class: "p-trust" });
    const ask = () => this.giveUps.push(carry(this.transport, "trust", this.question(i), trust, "measuring", (value) => trust.replaceChildren(curveChart(value)), ask));
    const weights = h("div", { class: "p-trust" }), model = this.start.models[this.state.columns[i].model];
    const renew = () => this.giveUps.push(carry(this.transport, "weights", this.question(i), weights, "drawing layers anew", (value) => weights.replaceChildren(dependence(value)), renew));
    return h("div", { class: "p-extras" }, h("p", { class: "p-agree" }), this.still ? null : h("div", { class: "p-row" }, model.stored ? null : button("How faithful is it?", ask, { class: "p-asktrust" }), model.learned ? button("Does it depend on the weights?", renew, { class: "p-askweights" }) : null, button("Save", () => this.save(i), { class: "p-save", "aria-label": "Save this explanation as a safetensors file" })), trust, weights);
  }

  async agree() {
    const [first, ...others] = this.results;
    for (const other of others) {
      const line = other?.place.querySelector(".p-agree");
      if (!first?.told || !other?.told || !line) continue;
      const { correlation } = await this.transport.ask("agreement", { first: first.told.key, second: other.told.key }).catch(() => ({ correlation: null }));
      line.textContent = correlation === null ? "" : `rank correlation with the first: ${number(correlation, 2)}`;
    }
  }

  async save(i) {
    try {
      const { name, data } = await this.transport.ask("save", { key: this.results[i].told.key });
      download(name, new Blob([bytesOf(data)], { type: "application/octet-stream" }));
      this.say(`Saved ${name}`);
    } catch (error) {
      this.banner.replaceChildren(complaint(error));
    }
  }

  // ------------------------------------------------------------------------------------------------------------ edits

  editor() {
    const { sample, state } = this, kind = sample.editable;
    if (!kind || this.still) return null;
    const apply = (edit) => {
      state.edit = edit;
      this.show();
    };
    const reset = Object.keys(state.edit).length ? button("Undo the edit", () => apply({}), { class: "p-reset" }) : null;
    const inside = { text: () => this.editText(apply), values: () => this.editValues(apply), box: () => this.editPicture(apply) }[kind]();
    const words = { text: "Edit the text", values: "Edit the values", box: "Hide a part of the picture" }[kind];
    return h("details", { class: "p-more p-editor", open: reset !== null }, h("summary", {}, words), inside, reset);
  }

  editText(apply) {
    const box = h("textarea", { rows: "3", value: this.state.edit.text ?? this.sample.text });
    return h("form", { on: { submit: (event) => {
      event.preventDefault();
      apply({ text: box.value });
    } } }, labelled("Text", box), h("button", { type: "submit", class: "p-apply" }, "Predict and explain"));
  }

  editValues(apply) {
    const part = this.sample.models[0].parts[0], value = h("input", { type: "number", step: "any" });
    const column = select(part.names.map((name) => ({ value: name, text: name })), part.names[0], () => set());
    const set = () => (value.value = (part.cells[part.names.indexOf(column.value)] ?? "").replace("−", "-").replaceAll(",", ""));
    set();
    return h("form", { class: "p-row", on: { submit: (event) => {
      event.preventDefault();
      if (value.value !== "") apply({ values: { ...this.state.edit.values, [column.value]: Number(value.value) } });
    } } }, labelled("Column", column), labelled("Value", value), h("button", { type: "submit", class: "p-apply" }, "Predict and explain"));
  }

  editPicture(apply) {
    const part = this.sample.models[0].parts[0], canvas = h("canvas", { class: "p-picture p-drag", "aria-hidden": "true" });
    enlarge(canvas, pictureData(part.picture), 200);
    const fields = ["left", "top", "width", "height"].map((name) => h("input", { type: "number", min: "0", max: "100", value: { left: "25", top: "25", width: "50", height: "50" }[name], "data-box": name }));
    const hide = (left, top, right, bottom) => {
      if (right > left && bottom > top) apply({ boxes: [...(this.state.edit.boxes ?? []), [left, top, right, bottom]] });
    };
    const frame = h("div", { class: "p-box", hidden: true }), at = (event) => [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight].map((v) => Math.min(1, Math.max(0, v)));
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      from = at(event);
      canvas.setPointerCapture(event.pointerId);
    });
    const corners = (event) => {
      const to = at(event);
      return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    };
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [left, top, right, bottom] = corners(event);
      frame.hidden = false;
      Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    });
    canvas.addEventListener("pointerup", (event) => {
      const box = from && corners(event);
      from = null;
      frame.hidden = true;
      if (box && (box[2] - box[0]) * (box[3] - box[1]) > 1e-4) hide(...box);
    });
    const typed = h("form", { on: { submit: (event) => {
      event.preventDefault();
      const [left, top, width, height] = fields.map((field) => Math.min(100, Math.max(0, Number(field.value) || 0)) / 100);
      hide(left, top, Math.min(1, left + width), Math.min(1, top + height));
    } } }, h("div", { class: "p-row" }, fields.map((field) => labelled(`${field.dataset.box}, %`, field))), h("button", { type: "submit", class: "p-apply" }, "Hide this part"));
    return h("div", { class: "p-row" }, h("div", {}, h("div", { class: "p-stage" }, canvas, frame), h("p", { class: "p-note" }, "drag over the part to hide")), typed);
  }

  // -------------------------------------------------------------------------------------------- over many examples

  async confusion() {
    const { state } = this, panel = this.panels.confusion;
    let found;
    try {
      found = await this.transport.ask("confusion", { ...state.filter, predicted: [], labels: [], method: "" });
    } catch (error) {
      return panel.replaceChildren(complaint(error, () => this.confusion()));
    }
    if (!this.start.models[state.filter.model].exclusive) return panel.replaceChildren(h("h2", {}, "Confusion"), h("p", { class: "p-note" }, "Where an example may have several classes, none is confused with another; filter by class and verdict instead."));
    if (!found.total) return panel.replaceChildren(h("h2", {}, "Confusion"), h("p", { class: "p-note" }, "No labelled example with a predicted class passes the filter."));
    const most = Math.max(1, ...found.counts.flatMap((row, i) => row.filter((_, j) => i !== j)));
    const cell = (row, column, i, j) => {
      const count = found.counts[i][j];
      if (!count) return h("td", { class: i === j ? "p-diagonal" : "" }, "");
      const words = `${count} labelled ${row.name}, predicted ${column.name}`;
      const rgb = i === j ? null : shade(0.15 + (0.85 * count) / most);
      const chosen = state.filter.labels[0] === row.index && state.filter.predicted[0] === column.index;
      const made = button(String(count), () => {
        Object.assign(state.filter, { labels: [row.index], predicted: [column.index], verdict: "all" });
        state.offset = 0;
        this.filters();
        this.list();
        this.confusion();
        this.say(`Showing ${words}`);
      }, { title: words, "aria-label": words, "aria-pressed": String(chosen), style: rgb ? { backgroundColor: css(rgb), color: inkOn(rgb) } : {} });
      return h("td", { class: i === j ? "p-diagonal" : "" }, made);
    };
    const table = h("table", { class: "p-confusion" }, h("caption", {}, "Rows: labels. Columns: predictions. Choose a cell to list its examples."),
      h("thead", {}, h("tr", {}, h("td", {}), found.classes.map((c) => h("th", { scope: "col" }, c.name)))),
      h("tbody", {}, found.classes.map((row, i) => h("tr", {}, h("th", { scope: "row" }, row.name), found.classes.map((column, j) => cell(row, column, i, j))))));
    return panel.replaceChildren(h("h2", {}, "Confusion"), h("p", {}, `${percent(found.accuracy)} of ${plural(found.total, "labelled example")} right`), h("div", { class: "p-scroll" }, table));
  }

  aimText() {
    const { target, columns } = this.state, name = (index) => this.classes(columns[0].model)[index] ?? `class ${index}`;
    const aim = target.class === null ? "for the class that is predicted for it" : `for ${name(target.class)}`;
    return `${pretty(columns[0].method)}, ${aim}${target.versus === null ? "" : ` rather than ${name(target.versus)}`}`;
  }

  sumText() {
    return `What the chosen examples have in common: each is explained as in the first column (${this.aimText()}), and the attributions are averaged. Afterwards the list can be sorted by attribution mass and by health.`;
  }

  importance() {
    const { state } = this, panel = this.panels.importance, place = h("div", { class: "p-global" });
    const limit = h("input", { type: "number", min: "1", max: "2000", value: "50", class: "p-limit" });
    const ask = () => {
      const { index: _index, edit: _edit, ...question } = this.question(0);
      const given = { ...state.filter, method: this.manner(), question, limit: Math.min(2000, Math.max(1, Math.trunc(Number(limit.value) || 50))) };
      this.giveUps = this.giveUps.filter((giveUp) => giveUp !== this.summing);
      const aim = this.aimText();
      this.summing = carry(this.transport, "importance", given, place, "waiting", (value) => {
        place.replaceChildren(...this.summed(value, aim));
        this.list();
      }, ask);
    };
    this.sumWords = h("p", { class: "p-note" }, this.sumText());
    panel.replaceChildren(h("h2", {}, "Importance"), this.sumWords, h("div", { class: "p-row" }, labelled("At most so many examples", limit), button("Explain and average", ask, { class: "p-sum" })), place);
    if (this.still) ask();
  }

  summed(value, aim) {
    const failed = value.failed ? `; ${value.failed} could not be explained` : "";
    const head = h("p", {}, `Means over ${plural(value.examples, "example")} of ${value.chosen.toLocaleString("en")} chosen${failed}: ${aim}`);
    const parts = value.parts.map((part) => {
      const most = Math.max(...part.named.map((one) => one.magnitude), 1e-30);
      const bars = part.named.length ? h("table", { class: "p-bars" }, h("caption", { class: "p-hidden" }, `Mean attributions of ${part.name}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, part.kind === "text" ? "word" : "feature"), h("th", { scope: "col", class: "p-number" }, part.kind === "text" ? "times" : "examples"), h("th", { scope: "col" }, hidden("bar")), h("th", { scope: "col", class: "p-number" }, "mean size"), h("th", { scope: "col", class: "p-number" }, "mean"))),
        h("tbody", {}, part.named.map((one) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", { class: "p-number" }, String(one.size)), h("td", { class: "p-track" }, sizeBar(one.magnitude / most, one.signed)), h("td", { class: "p-number" }, number(one.magnitude)), h("td", { class: "p-number" }, number(one.signed)))))) : null;
      const maps = part.maps.map((map) => {
        const draw = (data, words) => {
          const values = decode(data), unit = limitOf(values, 2);
          const canvas = enlarge(h("canvas", { class: "p-map", role: "img", "aria-label": `${words} over ${map.size} examples` }), overlay({ shape: map.shape, values, picture: null }, unit, { sign: "all", opacity: 1 }), 224);
          return h("figure", {}, canvas, h("figcaption", {}, words), colourBar(unit, true, "attribution", words === "mean size" ? "absolute" : "all"));
        };
        return h("div", { class: "p-maps" }, draw(map.magnitude, "mean size"), draw(map.signed, "mean"));
      });
      const share = value.parts.length > 1 ? h("p", { class: "p-note" }, `${part.name}: ${percent(part.share)} of all attribution`) : null;
      const order = part.kind === "text" && bars ? h("p", { class: "p-note" }, "First stand the words with the most attribution altogether: mean size by times.") : null;
      return h("div", { class: "p-part" }, share, order, bars, maps);
    });
    return [head, ...parts];
  }

  // ------------------------------------------------------------------------------------------------- files and keys

  exported() {
    const place = this.banner, given = { ...this.state.filter, method: this.manner(), columns: this.state.columns, target: this.state.target, example: this.state.sample, look: this.state.look };
    const ask = () => carry(this.transport, "export", given, place, "writing the file", (value) => {
      download(value.name, new Blob([value.html], { type: "text/html" }));
      place.replaceChildren(h("p", { class: "p-notice" }, `Saved ${value.name}: ${plural(value.rows, "row")}, ${plural(value.explanations, "explanation")}.`));
      this.say(`Saved ${value.name}`);
    }, ask);
    ask();
  }

  async tabled() {
    try {
      const { name, text, rows } = await this.transport.ask("table", { ...this.state.filter, method: this.manner() });
      download(name, new Blob([text], { type: "text/csv" }));
      this.banner.replaceChildren(h("p", { class: "p-notice" }, `Saved ${name}: ${plural(rows, "example")}.`));
      this.say(`Saved ${name}`);
    } catch (error) {
      this.banner.replaceChildren(complaint(error));
    }
  }

  keyHelp() {
    const keys = [["j, k", "next, previous example"], ["[, ]", "previous, next page"], ["/", "search"], ["e", "explain again"], ["c", "compare with another method or model"], ["1, 2, 3", "example, confusion, importance"], ["?", "this list"]];
    const on = h("input", { type: "checkbox", checked: true, on: { change: (event) => (this.letters = event.target.checked) } });
    this.keys = h("dialog", { class: "p-dialog", "aria-label": "Keys" }, h("h2", {}, "Keys"), h("dl", {}, keys.map(([key, words]) => [h("dt", {}, key), h("dd", {}, words)])), labelled("These keys work", on, { class: "p-field p-check" }), button("Close", () => this.keys.close()));
  }

  key(event) {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (!this.letters || typing || event.ctrlKey || event.metaKey || event.altKey || this.keys.open) return;
    const acts = {
      j: () => this.step(1), k: () => this.step(-1), "[": () => this.pager.firstChild?.click(), "]": () => this.pager.lastChild?.click(),
      "/": () => {
        this.side.querySelector(".p-filterbox").open = true;
        this.side.querySelector(".p-search").focus();
      },
      e: () => this.results?.forEach((_, i) => this.run(i)), c: () => this.cards?.querySelector(".p-compare")?.click(),
      1: () => this.tab("example"), 2: () => this.tab("confusion"), 3: () => this.tab("importance"), "?": () => this.keys.showModal(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }
}

function sums(part, look) {
  if (part.kind !== "text" || !look.merge || !part.words.length) return part.values;
  return Float32Array.from(part.words, (word) => word.pieces.reduce((sum, i) => sum + part.values[i], 0));
}

function sizeBar(share, signed) {
  return h("div", { class: "p-rail p-oneway", "aria-hidden": "true" }, h("div", { class: `p-fill ${signed < 0 ? "p-minus" : "p-plus"}`, style: { left: "0", width: `${100 * share}%` } }));
}

function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ----------------------------------------------------------------------------------------------------------- three ways

const KEY = "pellucid-key";

// The key comes in the link's fragment; it is kept for this tab only, and taken out of the address.
function keyOf() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (parts.has("key")) {
    sessionStorage.setItem(KEY, parts.get("key"));
    parts.delete("key");
    history.replaceState(null, "", `${location.pathname}${location.search}#${parts}`);
  }
  return sessionStorage.getItem(KEY);
}

function openPage(root) {
  const data = document.getElementById("pellucid-data");
  const transport = data ? new Embedded(JSON.parse(data.textContent)) : new Http(keyOf() ?? "");
  const app = new App(root, transport, { page: true, address: true, still: Boolean(data) });
  if (data && !location.hash && transport.data.view) app.state.read(transport.data.view);
  app.open();
  addEventListener("hashchange", () => {
    if (!data && new URLSearchParams(location.hash.slice(1)).has("key")) return location.reload();
    if (app.state.write() === location.hash.slice(1)) return undefined;
    app.state.read(location.hash.slice(1));
    return app.open();
  });
}

function render({ model, el }) {
  const app = new App(el, new Messages(model), { page: false });
  const dark = document.body.dataset.jpThemeLight === "false" || document.body.classList.contains("vscode-dark");
  app.open().then(() => {
    if (dark && app.box) app.box.dataset.theme = "dark";
  });
  return () => app.giveUps.forEach((giveUp) => giveUp());
}

const root = document.getElementById("pellucid-page");
if (root) openPage(root);

export default { render };
