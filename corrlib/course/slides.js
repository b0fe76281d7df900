// Breaks what is too much for one slide into several, then starts reveal.js.
"use strict";

const WIDTH = 1280, HEIGHT = 720;
const FREE = HEIGHT - 80; // what a title, or the line that repeats it, leaves to one block
const SMALLEST = 0.6; // of the usual size, for what is too wide or too high

// The height that a block wants, with its margin.
function wanted(block) {
  if (block.matches(".explorer")) return HEIGHT;
  if (block.matches(".figure")) {
    return Math.min(Math.max(WIDTH * block.height / block.width, 380), 560);
  }
  return block.offsetHeight + parseFloat(getComputedStyle(block).marginBottom);
}

// Makes a table, a formula, code or printed text smaller until it fits across and down.
function fit(block) {
  const inner = block.querySelector("pre, math") || block;
  const usual = parseFloat(getComputedStyle(inner).fontSize);
  for (let size = 1; size >= SMALLEST; size -= 0.05) {
    inner.style.fontSize = `${size * usual}px`;
    const wide = block.offsetWidth > WIDTH || inner.scrollWidth > inner.clientWidth + 1;
    if (!wide && (block.offsetHeight <= FREE || block.matches("table"))) return;
  }
}

// A table or a list that is higher than a slide, as several.
function parts(block) {
  const rows = block.querySelectorAll(":scope > tbody > tr, :scope > li");
  if (!rows.length || block.offsetHeight <= FREE) return [block];
  const last = block.cloneNode(true);
  const rest = last.querySelectorAll(":scope > tbody > tr, :scope > li");
  const top = block.getBoundingClientRect().top;
  const fits = [...rows].filter(row => row.getBoundingClientRect().bottom - top <= FREE).length || 1;
  [...rows].slice(fits).forEach(row => row.remove());
  [...rest].slice(0, fits).forEach(row => row.remove());
  if (fits === rows.length) return [block];
  if (block.matches("ol")) last.start = (block.start || 1) + fits;
  block.after(last);
  return [block, ...parts(last)];
}

function slideOf(blocks) {
  const slide = document.createElement("div");
  slide.className = "slide";
  slide.append(...blocks);
  return slide;
}

// The blocks of one section in as many lists as it takes, each at most a slide high.
function broken(blocks) {
  const lists = [[]];
  let height = blocks[0].matches("h1, h2") ? 0 : 46; // of the line that repeats the title
  for (const block of blocks) {
    const more = wanted(block);
    const untitled = lists.at(-1).some(b => !b.matches("h1, h2, h3")); // no title stays alone
    if (height + more > HEIGHT - 10 && untitled) {
      lists.push([]);
      height = 46;
    }
    lists.at(-1).push(block);
    height += more;
  }
  return lists;
}

const stage = document.createElement("div"); // where blocks are measured, as wide as a slide
stage.className = "slide";
stage.style.cssText = `position:absolute; visibility:hidden; width:${WIDTH}px; height:auto;`;
document.querySelector(".slides").append(stage);

for (const column of document.querySelectorAll(".slides > section")) {
  const title = column.querySelector("h1, h2")?.textContent ?? "";
  for (const section of [...column.children]) {
    stage.replaceChildren(...section.children);
    stage.querySelectorAll(":scope > :is(table, .highlight, .printed, .math)").forEach(fit);
    const sections = broken([...stage.children].flatMap(parts)).map(list => {
      if (!list[0].matches("h1, h2")) {
        const running = document.createElement("p");
        running.className = "running";
        running.textContent = title;
        list.unshift(running);
      }
      const part = document.createElement("section");
      part.append(slideOf(list));
      return part;
    });
    section.replaceWith(...sections);
  }
}
stage.remove();

Reveal.initialize({
  width: WIDTH, height: HEIGHT, margin: 0.08, center: false, hash: true, slideNumber: "h.v",
  transition: "none", backgroundTransition: "none", pdfMaxPagesPerSlide: 1,
});
