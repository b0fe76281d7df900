// Where a target cell looks, from 8-bit features: the arithmetic of the page, and nothing else.
// The definitions are those of corrlib.affinity. Cells are numbered row by row: (u, v) is v·w + u.

/** The bytes behind a base64 text that Python's zlib wrote. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(unpacked).arrayBuffer();
}

/** A frame's features: int8 `values` (n, C), to be multiplied by `scales` (n). */
async function unpack({ values, scales }) {
  const [bytes, floats] = await Promise.all([inflate(values), inflate(scales)]);
  return { values: new Int8Array(bytes), scales: new Float32Array(floats) };
}

/** f_ref · f_tar of one target cell with every reference cell, (n). */
function scores(reference, target, cell) {
  const channels = target.values.length / target.scales.length;
  const wanted = target.values.subarray(cell * channels, (cell + 1) * channels);
  return Float64Array.from(reference.scales, (scale, i) => {
    let sum = 0; // of whole numbers, so it is exact
    for (let c = 0, at = i * channels; c < channels; c++) sum += reference.values[at + c] * wanted[c];
    return scale * target.scales[cell] * sum;
  });
}

/** Softmax of scores/τ over the cells that are `seen`; exactly 0 elsewhere. */
function softmax(scores, temperature, seen) {
  const most = scores.reduce((most, score, i) => (seen[i] ? Math.max(most, score) : most), -Infinity);
  const shares = scores.map((score, i) => (seen[i] ? Math.exp((score - most) / temperature) : 0));
  const total = shares.reduce((sum, share) => sum + share);
  return shares.map((share) => share / total);
}

/** Which cells of an h×w map are at most `radius` rows and columns from (u, v). */
function within(u, v, radius, height, width) {
  return Array.from({ length: height * width }, (_, i) =>
    Math.max(Math.abs((i % width) - u), Math.abs(Math.floor(i / width) - v)) <= radius);
}

/** Which are the k best of the cells that are `seen`. */
function best(scores, k, seen) {
  const order = [...scores.keys()].filter((i) => seen[i]).sort((i, j) => scores[j] - scores[i]);
  const chosen = new Set(order.slice(0, k));
  return Array.from(scores, (_, i) => chosen.has(i));
}

/** Full, restricted and top-k affinity of target cell (u, v): name -> { seen, share }, (n) each. */
function affinities(reference, target, { u, v, temperature, radius, topk, near, height, width }) {
  const found = scores(reference, target, v * width + u);
  const reach = within(u, v, radius, height, width);
  const all = reach.map(() => true);
  const seen = { full: all, restricted: reach, top: best(found, topk, near ? reach : all) };
  const answer = ([name, cells]) => [name, { seen: cells, share: softmax(found, temperature, cells) }];
  return Object.fromEntries(Object.entries(seen).map(answer));
}

/** Entropy in bits: 0 if one cell has it all, b if it is spread evenly over 2^b cells. */
function entropy(share) {
  return share.reduce((sum, a) => (a > 0 ? sum - a * Math.log2(a) : sum), 0);
}

/** The cell with the largest share. */
function peak(share) {
  return share.reduce((most, a, i) => (a > share[most] ? i : most), 0);
}

/** What is copied: Σ A·colour over the reference cells, for colours (n) of [r, g, b]. */
function copy(share, colours) {
  return [0, 1, 2].map((c) => share.reduce((sum, a, i) => sum + a * colours[i][c], 0));
}

/** The mean colour of each cell. Where the grid is larger, the picture's last pixels are repeated. */
function cellColours(picture, stride, height, width) {
  const colours = Array.from({ length: height * width }, () => [0, 0, 0]);
  for (let y = 0; y < height * stride; y++) {
    for (let x = 0; x < width * stride; x++) {
      const row = Math.min(y, picture.height - 1), column = Math.min(x, picture.width - 1);
      const cell = colours[Math.floor(y / stride) * width + Math.floor(x / stride)];
      for (let c = 0; c < 3; c++) {
        cell[c] += picture.data[4 * (row * picture.width + column) + c] / stride ** 2;
      }
    }
  }
  return colours;
}

if (typeof module === "object") {
  module.exports = { unpack, affinities, entropy, peak, copy, cellColours }; // for the tests
}
