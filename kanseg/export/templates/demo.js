"use strict";
// The page of the demo: reads an image, lets the worker predict, and draws the mask.

const get = (id) => document.getElementById(id);
const multilabel = settings.task === "multilabel";
const percent = (share, digits) => share.toLocaleString(document.documentElement.lang, {
  style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits,
});

let worker;
let state; // "loading", "ready", "predicting", or "broken" if the network cannot be loaded
let waiting = null; // image that is predicted as soon as the network is ready
let shown = null; // {name, width, height, rgba, start, result, masks}

// ---- texts and messages

function fill(text, values) {
  return text.replace(/{(\w+)}/g, (_, name) => values[name]);
}

function say(text) {
  get("message").textContent = text;
}

function fail(text) {
  say("");
  get("progress").hidden = true;
  get("error").textContent = text;
  get("error").hidden = false;
}

function clearMessages() {
  get("error").hidden = true;
  get("warning").hidden = true;
}

// ---- the worker

function setState(value) {
  state = value;
  document.body.dataset.state = value;
}

function startWorker() {
  worker?.terminate();
  const files = { "runtime.js": self.kansegRuntime, "model.js": self.kansegModel };
  for (const [file, content] of Object.entries(files)) {
    if (content === undefined) {
      setState("broken");
      fail(fill(texts.missing, { file }));
      return;
    }
  }
  setState("loading");
  say(texts.loading);
  const source = new Blob([get("worker").textContent], { type: "text/javascript" });
  const started = new Worker(URL.createObjectURL(source));
  worker = started;
  started.onmessage = ({ data }) => {
    if (started === worker) receive(data); // not one that was replaced
  };
  started.onerror = (event) => {
    if (started === worker) receive({ error: event.message ?? "" });
  };
  started.postMessage({ runtime: kansegRuntime, model: kansegModel, settings });
}

function receive(data) {
  if (data.error !== undefined) {
    fail(fill(texts.failed, { reason: data.error }));
    // What has failed once, for want of memory for instance, may not go on in the same worker.
    if (state === "predicting") startWorker();
    else setState("broken");
  } else if (data.ready) {
    setState("ready");
    say(get("error").hidden ? texts.ready : "");
    predictWaiting();
  } else if (data.tile) {
    say(fill(texts.tile, data));
    Object.assign(get("progress"), { max: data.tiles, value: data.tile });
  } else {
    show(data);
  }
}

function predictWaiting() {
  if (state !== "ready" || waiting === null) return;
  shown = waiting;
  waiting = null;
  shown.start = performance.now();
  setState("predicting");
  say(texts.predicting);
  get("progress").hidden = false;
  get("progress").removeAttribute("value");
  const { rgba, width, height } = shown;
  worker.postMessage({ rgba, width, height });
}

// ---- reading an image

async function open(file) {
  clearMessages();
  get("result").hidden = true;
  try {
    waiting = await read(file);
  } catch (error) {
    fail(error.message);
    return;
  }
  drawImage(waiting);
  // The prediction of an image before this one is given up.
  if (state === "predicting" || state === "broken") startWorker();
  predictWaiting();
}

async function read(file) {
  const { name } = file;
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 32).arrayBuffer()));
  const png = head.startsWith("\x89PNG");
  const webp = head.startsWith("RIFF") && head.slice(8, 12) === "WEBP";
  if (png && head.charCodeAt(24) === 16) throw new Error(fill(texts.deep, { name }));
  if (!png && !webp && !head.startsWith("\xff\xd8") && !head.startsWith("BM")) {
    throw new Error(fill(texts.unread, { name }));
  }
  let bitmap;
  try {
    // Upright by EXIF, and without conversion of the colors, as kanseg reads it.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(fill(texts.unread, { name }));
  }
  const { width, height } = bitmap;
  if (width * height > settings.max_pixels) {
    const limit = Math.floor(settings.max_pixels / 1e5) / 10;
    throw new Error(fill(texts.large, { name, width, height, limit }));
  }
  const context = canvasContext(get("image"), width, height);
  if (!readsExactly()) throw new Error(texts.altered);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return { name, width, height, rgba };
}

function canvasContext(canvas, width, height) {
  Object.assign(canvas, { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

// False if the browser adds noise to the pixels that it gives to a page.
function readsExactly() {
  const context = canvasContext(document.createElement("canvas"), 16, 16);
  const drawn = context.createImageData(16, 16);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : (i * 37) % 256;
  context.putImageData(drawn, 0, 0);
  const found = context.getImageData(0, 0, 16, 16).data;
  return drawn.data.every((value, i) => value === found[i]);
}

function drawImage({ name, width, height, rgba }) {
  canvasContext(get("mask"), width, height); // empty
  get("stage").style.setProperty("--ratio", width / height);
  get("stage").style.setProperty("--width", width);
  get("stage").setAttribute("aria-label", name);
  get("name").textContent = name;
  get("size").textContent = fill(texts.size, { width, height });
  get("time").textContent = "";
  get("drop").classList.add("small");
  get("result").hidden = false;
  document.querySelector(".panel").inert = true; // until there is a mask
  const transparent = hasAlpha(rgba);
  get("warning").textContent = transparent ? texts.transparent : "";
  get("warning").hidden = !transparent;
}

function hasAlpha(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] < 255) return true;
  return false;
}

// ---- the mask

function show(result) {
  setState("ready");
  shown.result = result;
  const seconds = ((performance.now() - shown.start) / 1000).toFixed(2);
  get("time").textContent = fill(texts.seconds, { seconds });
  get("progress").hidden = true;
  document.querySelector(".panel").inert = false;
  update();
  say(fill(texts.done, { seconds }));
}

// After a new result, or another threshold.
function update() {
  shown.masks = decide(shown);
  drawMask();
  const pixels = shown.width * shown.height;
  const shares = settings.classes.map((name, label) => {
    const share = percent(countOf(label) / pixels, 1);
    get(`share${label}`).textContent = share;
    return `${name} ${share}`;
  });
  const label = fill(texts.alt, { name: shown.name, shares: shares.join(", ") });
  get("stage").setAttribute("aria-label", label);
}

function showValues() {
  const opacity = get("opacity").value / 100;
  get("opacity_value").textContent = percent(opacity, 0);
  get("mask").style.opacity = opacity;
  get("threshold_value").textContent = (get("threshold").value / 100).toFixed(2);
}

// Masks as kanseg writes them: one of class indices, or one of 0 and 255 per class (multilabel).
function decide({ result, width, height }) {
  if (result.labels) return [result.labels];
  const threshold = get("threshold").value / 100;
  const value = multilabel ? 255 : 1;
  const masks = [];
  for (let start = 0; start < result.probabilities.length; start += width * height) {
    const plane = result.probabilities.subarray(start, start + width * height);
    masks.push(Uint8Array.from(plane, (probability) => (probability > threshold ? value : 0)));
  }
  return masks;
}

function countOf(label) {
  let count = 0;
  for (let i = 0; i < shown.width * shown.height; i++) count += isLabeled(shown.masks, i, label);
  return count;
}

// Draw the visible classes in their colors; where several overlap, in the mean of their colors.
function drawMask() {
  const { width, height, masks } = shown;
  const context = canvasContext(get("mask"), width, height);
  const drawn = context.createImageData(width, height);
  const visible = settings.classes.map((_, label) => get(`visible${label}`).checked);
  for (let i = 0; i < width * height; i++) {
    let count = 0;
    for (let label = 0; label < visible.length; label++) {
      if (!visible[label] || !isLabeled(masks, i, label)) continue;
      count += 1;
      for (let channel = 0; channel < 3; channel++) {
        const color = settings.palette[label][channel];
        const before = drawn.data[4 * i + channel];
        drawn.data[4 * i + channel] = before + (color - before) / count;
      }
    }
    drawn.data[4 * i + 3] = count > 0 ? 255 : 0;
  }
  context.putImageData(drawn, 0, 0);
}

function isLabeled(masks, i, label) {
  return multilabel ? masks[label][i] > 0 : masks[0][i] === label;
}

// ---- downloads

async function saveMask(label) {
  const name = shown.name.replace(/\.\w+$/, "");
  if (multilabel) {
    const file = await encodePng(shown.masks[label], shown.width, shown.height, null);
    save(file, `${name}_${settings.classes[label]}.png`);
  } else {
    const file = await encodePng(shown.masks[0], shown.width, shown.height, settings.palette);
    save(file, `${name}.png`);
  }
}

function saveOverlay() {
  const canvas = document.createElement("canvas");
  const context = canvasContext(canvas, shown.width, shown.height);
  context.drawImage(get("image"), 0, 0);
  context.globalAlpha = get("opacity").value / 100;
  context.drawImage(get("mask"), 0, 0);
  canvas.toBlob((file) => save(file, `${shown.name.replace(/\.\w+$/, "")}_overlay.png`));
}

function save(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A PNG file of 8 bits: gray, or indices with a palette of RGB colors. A canvas cannot write
// indices.
async function encodePng(values, width, height, palette) {
  const rows = new Uint8Array(height * (width + 1)); // each row begins with its filter, 0
  for (let y = 0; y < height; y++) {
    rows.set(values.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits
  header.setUint8(9, palette === null ? 0 : 3); // gray, or indices
  const chunks = [pngChunk("IHDR", new Uint8Array(header.buffer))];
  if (palette !== null) chunks.push(pngChunk("PLTE", Uint8Array.from(palette.flat())));
  chunks.push(pngChunk("IDAT", new Uint8Array(await new Response(stream).arrayBuffer())));
  chunks.push(pngChunk("IEND", new Uint8Array(0)));
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return new Blob([signature, ...chunks], { type: "image/png" });
}

function pngChunk(kind, content) {
  const chunk = new Uint8Array(content.length + 12);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, content.length);
  chunk.set(Uint8Array.from(kind, (letter) => letter.charCodeAt(0)), 4);
  chunk.set(content, 8);
  view.setUint32(content.length + 8, crc32(chunk.subarray(4, content.length + 8)));
  return chunk;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}

// ---- controls

function addClass(name, label) {
  const row = document.createElement("li");
  const caption = document.createElement("label");
  const visible = Object.assign(document.createElement("input"), {
    type: "checkbox", id: `visible${label}`, checked: settings.foreground.includes(label),
  });
  visible.onchange = drawMask;
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.background = `rgb(${settings.palette[label].join(" ")})`;
  const share = Object.assign(document.createElement("span"), {
    id: `share${label}`, className: "value",
  });
  caption.append(visible, swatch, name, share);
  row.append(caption);
  if (multilabel) {
    const button = Object.assign(document.createElement("button"), { textContent: "↓" });
    const text = fill(texts.save_class, { name });
    button.setAttribute("aria-label", text);
    button.title = text;
    button.onclick = () => saveMask(label);
    row.append(button);
  }
  get("classes").append(row);
}

settings.classes.forEach(addClass);
get("threshold_part").hidden = settings.task === "multiclass";
get("save_mask").hidden = multilabel; // one button per class
get("save_mask").onclick = () => saveMask(0);
get("save_overlay").onclick = saveOverlay;
get("opacity").oninput = showValues;
get("threshold").oninput = () => {
  showValues();
  update();
};
get("file").onchange = ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
};
document.ondragover = (event) => {
  event.preventDefault();
  get("drop").classList.add("over");
};
document.ondragleave = () => get("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  get("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file);
};
document.onpaste = (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file);
};
showValues();
startWorker();
