"use strict";
// Runs the network outside of the page's thread, so that the page stays responsive.
// It gets {runtime, model, settings}, then {rgba, width, height} for each image, and posts
// {ready}, {tile, tiles} after each tile, and {labels} or {probabilities}; or {error}.

const OVERLAP = 0.5; // of tiles, as in kanseg predict

let session, settings;

onmessage = async ({ data }) => {
  try {
    if (data.runtime) await load(data);
    else await predict(data);
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};

async function load({ runtime, model, settings: given }) {
  settings = given;
  importScripts(blobUrl(runtime.script)); // defines ort
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: blobUrl(runtime.module) };
  ort.env.wasm.wasmBinary = await unpack(runtime.wasm);
  session = await ort.InferenceSession.create(await unpack(model), {
    executionProviders: ["wasm"],
  });
  postMessage({ ready: true });
}

function blobUrl(source) {
  return URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
}

// Base64 of a gzip file -> its content.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Predict an image in tiles that are blended with Gaussian weights, as kanseg's sliding_window.
async function predict({ rgba, width, height }) {
  const tileHeight = Math.min(settings.tile?.[0] ?? height, height);
  const tileWidth = Math.min(settings.tile?.[1] ?? width, width);
  const tops = tileStarts(height, tileHeight);
  const lefts = tileStarts(width, tileWidth);
  const tiles = tops.length * lefts.length;
  let maps;
  if (tiles === 1) {
    maps = await predictTile(rgba, width, 0, 0, height, width);
    checkFinite(maps);
  } else {
    maps = await predictTiles(rgba, width, height, tops, lefts, tileHeight, tileWidth);
  }
  if (settings.task === "multiclass") {
    const labels = argmax(maps, settings.classes.length, width * height);
    postMessage({ labels }, [labels.buffer]);
  } else {
    postMessage({ probabilities: maps }, [maps.buffer]);
  }
}

async function predictTiles(rgba, width, height, tops, lefts, tileHeight, tileWidth) {
  const pixels = width * height;
  const planes = settings.task === "binary" ? 1 : settings.classes.length;
  const sums = new Float32Array(planes * pixels);
  const weights = new Float32Array(pixels);
  const rows = gaussian(tileHeight);
  const columns = gaussian(tileWidth);
  let count = 0;
  for (const top of tops) {
    for (const left of lefts) {
      const maps = await predictTile(rgba, width, top, left, tileHeight, tileWidth);
      checkFinite(maps);
      let source = 0;
      for (let plane = 0; plane < planes; plane++) {
        for (let y = 0; y < tileHeight; y++) {
          let target = (top + y) * width + left;
          for (let x = 0; x < tileWidth; x++, source++, target++) {
            const weight = Math.max(rows[y] * columns[x], 1e-3);
            sums[plane * pixels + target] += weight * maps[source];
            if (plane === 0) weights[target] += weight;
          }
        }
      }
      count += 1;
      postMessage({ tile: count, tiles: tops.length * lefts.length });
    }
  }
  for (let plane = 0; plane < planes; plane++) {
    for (let i = 0; i < pixels; i++) sums[plane * pixels + i] /= weights[i];
  }
  return sums;
}

// First pixels of the tiles along a side, evenly spaced.
function tileStarts(length, tile) {
  if (length <= tile) return [0];
  const stride = Math.max(1, Math.floor(tile * (1 - OVERLAP)));
  const count = Math.ceil((length - tile) / stride) + 1;
  return Array.from({ length: count }, (_, i) => roundHalfToEven((i * (length - tile)) / (count - 1)));
}

// As Python's round.
function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function gaussian(size) {
  return Float32Array.from({ length: size }, (_, i) => {
    return Math.exp(-0.5 * ((i - (size - 1) / 2) / (size / 8)) ** 2);
  });
}

// Probabilities of a window of the image: planes (N, height, width), of a binary task only those
// of the foreground.
async function predictTile(rgba, imageWidth, top, left, height, width) {
  const values = toTensor(rgba, imageWidth, top, left, height, width);
  const input = new ort.Tensor("float32", values, [1, settings.channels, height, width]);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const output = outputs[session.outputNames[0]];
  return toProbabilities(output.data, height * width);
}

// RGBA bytes -> planes (channels, height, width) in [0, 1]. Scaling, gamma and normalization are
// inside the network; gray is the rounded luminance (Rec. 601), as in kanseg.
function toTensor(rgba, imageWidth, top, left, height, width) {
  const { channels } = settings;
  const pixels = height * width;
  const values = new Float32Array(channels * pixels);
  let target = 0;
  for (let y = top; y < top + height; y++) {
    let source = 4 * (y * imageWidth + left);
    for (let x = 0; x < width; x++, source += 4, target++) {
      const red = rgba[source];
      const green = rgba[source + 1];
      const blue = rgba[source + 2];
      if (channels === 1) {
        values[target] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue) / 255;
      } else {
        values[target] = red / 255;
        values[target + pixels] = green / 255;
        values[target + 2 * pixels] = blue / 255;
      }
    }
  }
  return values;
}

function toProbabilities(values, pixels) {
  const { task, output } = settings;
  if (output === "probabilities") return task === "binary" ? values.slice(pixels) : values;
  if (task === "multiclass") return softmax(values, pixels);
  return values.map((value) => 1 / (1 + Math.exp(-value)));
}

// Over the first axis of (N, pixels).
function softmax(values, pixels) {
  const result = new Float32Array(values.length);
  for (let i = 0; i < pixels; i++) {
    let largest = -Infinity;
    for (let k = i; k < values.length; k += pixels) largest = Math.max(largest, values[k]);
    let sum = 0;
    for (let k = i; k < values.length; k += pixels) sum += result[k] = Math.exp(values[k] - largest);
    for (let k = i; k < values.length; k += pixels) result[k] /= sum;
  }
  return result;
}

function argmax(maps, classes, pixels) {
  const labels = new Uint8Array(pixels);
  for (let i = 0; i < pixels; i++) {
    for (let label = 1; label < classes; label++) {
      if (maps[label * pixels + i] > maps[labels[i] * pixels + i]) labels[i] = label;
    }
  }
  return labels;
}

function checkFinite(maps) {
  if (!maps.every(Number.isFinite)) throw new Error("the network outputs NaN for this image");
}
