// The explorer on the page: four pictures, controls, and what they show in words.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TITLES = {
  full: (count) => ["Full", `all ${count} cells`],
  restricted: (count, { radius }) => ["Restricted", `${count} cells, M = ${radius}`],
  top: (count, { near }) => ["Top k", `the best ${count} ${near ? "within M" : "of all"}`],
};
// The upper part of the colour map magma, from weak to strong, as in the course's still figures.
const COLOURS = ["#782281", "#992d80", "#bc3978", "#dc4869", "#f2645c", "#fc8a62", "#feb27a",
  "#fed89a", "#fcfdbf"].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** Red, green, blue and opacity, 0-255, of a share of the strongest affinity. */
function colour(share) {
  const place = share * (COLOURS.length - 1), low = Math.min(Math.floor(place), COLOURS.length - 2);
  const rgb = COLOURS[low].map((part, c) => part + (COLOURS[low + 1][c] - part) * (place - low));
  return [...rgb, 255 * 0.9 * Math.min(1, 1.2 * Math.sqrt(share))];
}

const css = ([r, g, b, a = 255]) => `rgb(${r} ${g} ${b} / ${a / 255})`;

function steps(distance, before, after) {
  return distance ? [`${Math.abs(distance)} ${distance > 0 ? after : before}`] : [];
}

/** A frame's features, its pixels, and a canvas that holds it. */
async function load({ picture, ...packed }) {
  const image = new Image();
  image.src = picture;
  const features = await unpack(packed);
  await image.decode();
  const size = { width: image.naturalWidth, height: image.naturalHeight };
  const canvas = Object.assign(document.createElement("canvas"), size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return { ...features, canvas, pixels: context.getImageData(0, 0, size.width, size.height) };
}

/** Dim and grey, so that the colours of the affinity stand out. */
function dim({ canvas, pixels }) {
  const data = pixels.data.slice();
  for (let i = 0; i < data.length; i += 4) {
    data.fill(0.6 * (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]), i, i + 3);
  }
  canvas.getContext("2d").putImageData(new ImageData(data, pixels.width), 0, 0);
}

async function explore(root) {
  const { start, height, width, stride, ...frames } = JSON.parse(
    root.querySelector("script[type='application/json']").textContent);
  const [reference, target] = await Promise.all([frames.reference, frames.target].map(load));
  const [copied, wanted] = [reference, target].map(({ pixels }) =>
    cellColours(pixels, stride, height, width));
  dim(reference);

  const find = (selector) => root.querySelector(selector);
  const canvasOf = (panel) => find(`[data-panel="${panel}"] canvas`);
  const inputs = [...root.querySelectorAll("input")];
  const map = new ImageData(width, height), small = document.createElement("canvas");
  Object.assign(small, { width, height });
  const now = {};
  let speaking;

  /** Paint a picture on its canvas, sharp at the size it is shown at; then `marks` gets the
      context, in pixels of the picture, and how many of them are one pixel of the page. */
  function paint(panel, picture, marks) {
    const canvas = canvasOf(panel), pixel = picture.width / canvas.clientWidth;
    const size = [picture.width, picture.height].map((side) => Math.round((side / pixel) * devicePixelRatio));
    if (size[0] !== canvas.width || size[1] !== canvas.height) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.setTransform(size[0] / picture.width, 0, 0, size[1] / picture.height, 0, 0);
    context.imageSmoothingEnabled = true;
    context.drawImage(picture, 0, 0);
    marks(context, pixel);
  }

  /** Draw what `trace` adds to the path, in a colour with a dark rim, `wide` page pixels wide. */
  function stroke(context, pixel, wide, colour, trace) {
    context.beginPath();
    trace(context);
    for (const [ink, more] of [["#000b", 2], [colour, 0]]) {
      context.strokeStyle = ink;
      context.lineWidth = (wide + more) * pixel;
      context.stroke();
    }
  }

  const middle = (cell) => [cell % width, Math.floor(cell / width)].map((place) => (place + 0.5) * stride);

  /** A square around (u, v) that reaches `radius` cells, and is never too small to be seen. */
  function square(context, u, v, radius, least = 0) {
    const side = Math.max((2 * radius + 1) * stride, least);
    context.rect((u + 0.5) * stride - side / 2, (v + 0.5) * stride - side / 2, side, side);
  }

  function drawTarget() {
    const { u, v } = now, [x, y] = middle(v * width + u);
    paint("target", target.canvas, (context, pixel) => {
      context.globalAlpha = 0.6;
      stroke(context, pixel, 1, "#fff", () => {
        context.moveTo(x, 0), context.lineTo(x, target.canvas.height);
        context.moveTo(0, y), context.lineTo(target.canvas.width, y);
      });
      context.globalAlpha = 1;
      stroke(context, pixel, 2, "#fff", () => square(context, u, v, 0, 9 * pixel));
    });
  }

  function drawMap(name, { seen, share }) {
    const { u, v, radius } = now, strongest = peak(share);
    share.forEach((a, i) => map.data.set(colour(a / share[strongest]), 4 * i));
    small.getContext("2d").putImageData(map, 0, 0);
    paint(name, reference.canvas, (context, pixel) => {
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, width * stride, height * stride);
      if (name === "top") {
        stroke(context, pixel, 1, "#56b4e9", () =>
          seen.forEach((kept, i) => kept && square(context, i % width, Math.floor(i / width), 0)));
      }
      if (name === "restricted" || (name === "top" && now.near)) {
        context.setLineDash([6 * pixel, 4 * pixel]);
        stroke(context, pixel, 1.5, "#fff", () => square(context, u, v, radius));
        context.setLineDash([]);
      }
      const [from, to] = [middle(v * width + u), middle(strongest)], arm = 7 * pixel;
      stroke(context, pixel, 1, "#fff", () => (context.moveTo(...from), context.lineTo(...to)));
      stroke(context, pixel, 2, "#fff", () => square(context, u, v, 0, 9 * pixel));
      stroke(context, pixel, 2.5, "#56b4e9", () => {
        context.moveTo(to[0] - arm, to[1]), context.lineTo(to[0] + arm, to[1]);
        context.moveTo(to[0], to[1] - arm), context.lineTo(to[0], to[1] + arm);
      });
    });
  }

  const swatch = (background) => `<i class="swatch" style="background:${background}"></i>`;
  const caption = (panel, html) => (find(`[data-panel="${panel}"] figcaption`).innerHTML = html);

  /** Write what a map shows below it, and as its text alternative; returns it. */
  function describe(name, { seen, share }) {
    const { u, v } = now, strongest = peak(share), truth = wanted[v * width + u];
    const rgb = copy(share, copied), bits = entropy(share);
    const off = rgb.reduce((sum, part, c) => sum + Math.abs(part - truth[c]) / 3, 0);
    const way = [
      ...steps((strongest % width) - u, "left", "right"),
      ...steps(Math.floor(strongest / width) - v, "up", "down"),
    ];
    const [title, cells] = TITLES[name](seen.filter(Boolean).length, now);
    const said = [
      `strongest ${share[strongest].toPrecision(2)}, ${way.join(", ") || "at the same place"}`,
      `entropy ${bits.toFixed(1)} bits ≈ ${(2 ** bits).toFixed(0)} cells`,
      `copied colour off by ${off.toFixed(0)}/255`,
    ];
    const both = `linear-gradient(90deg, ${css(truth)} 50%, ${css(rgb)} 50%)`;
    caption(name, `<strong>${title}</strong>: ${cells} <span>${said[0]}</span><span>${said[1]}</span>
      <span>${swatch(both)}${said[2]}</span>`);
    const words = `${title}, ${cells}: ${said.join("; ")}.`;
    canvasOf(name).setAttribute("aria-label", `Affinity over the reference frame. ${words}`);
    return words;
  }

  function draw() {
    const began = performance.now();
    const found = affinities(reference, target, { ...now, height, width });
    const computed = performance.now(), answers = Object.entries(found);
    drawTarget(); // all pictures first: the browser measures the page once
    answers.forEach(([name, answer]) => drawMap(name, answer));
    caption("target", `<strong>Target</strong>: cell (${now.u}, ${now.v})
      <span class="note">click, drag, or arrow keys</span>
      <span>${swatch(css(wanted[now.v * width + now.u]))}its true colour</span>`);
    const words = answers.map(([name, answer]) => describe(name, answer));
    const times = [computed - began, performance.now() - began].map((time) => time.toFixed(1));
    [root.dataset.computed, root.dataset.answered] = times;
    find(".took").textContent =
      `${height} x ${width} cells compared in ${times[0]} ms, shown after ${times[1]} ms, by this page alone`;
    clearTimeout(speaking); // a screen reader hears where a drag ends, not all that it passes
    speaking = setTimeout(() => {
      find(".said").textContent = `Target cell (${now.u}, ${now.v}). ${words.join(" ")}`;
    }, 250);
  }

  /** Change some settings, show them on the controls, and draw. */
  function set(settings) {
    Object.assign(now, settings);
    now.u = Math.max(0, Math.min(width - 1, now.u));
    now.v = Math.max(0, Math.min(height - 1, now.v));
    for (const input of inputs) {
      const value = now[input.name], log = input.name === "temperature";
      if (input.type === "checkbox") {
        input.checked = value;
      } else {
        input.value = log ? Math.log10(value) : value;
        input.nextElementSibling.value = log ? value.toFixed(3) : value;
        input.setAttribute("aria-valuetext", input.nextElementSibling.value);
      }
    }
    draw();
  }

  for (const input of inputs) {
    input.addEventListener("input", () => {
      const value = input.type === "checkbox" ? input.checked : Number(input.value);
      set({ [input.name]: input.name === "temperature" ? 10 ** value : value });
    });
  }
  const picture = canvasOf("target");
  const choose = (event) => {
    const box = picture.getBoundingClientRect(), cell = (stride * box.width) / target.canvas.width;
    set({
      u: Math.floor((event.clientX - box.left) / cell),
      v: Math.floor((event.clientY - box.top) / cell),
    });
  };
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    choose(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (picture.hasPointerCapture(event.pointerId)) choose(event);
  });
  picture.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], far = event.shiftKey ? 5 : 1;
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // the page would scroll
    set({ u: now.u + far * step[0], v: now.v + far * step[1] });
  });
  for (const button of root.querySelectorAll("[data-set]")) {
    button.addEventListener("click", () => {
      set({ ...start, ...JSON.parse(button.dataset.set) });
      find(".board").scrollIntoView({ block: "nearest" });
    });
  }

  const bar = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((part) => css(colour(part / 8)));
  find(".legend .bar").style.background = `linear-gradient(90deg, ${bar}), #333`;
  for (const canvas of root.querySelectorAll("canvas")) {
    canvas.style.aspectRatio = `${target.canvas.width} / ${target.canvas.height}`;
  }
  find(".live").hidden = false;
  set(start);
  new ResizeObserver(draw).observe(find(".board"));
}

// Where this page is not allowed to compute, or the browser is too old, the still figure stays.
const root = document.currentScript.closest(".attention-explorer");
const still = root.querySelector(".still");
still.hidden = true;
explore(root).catch((error) => {
  root.querySelector(".live").hidden = true;
  still.hidden = false;
  throw error;
});
