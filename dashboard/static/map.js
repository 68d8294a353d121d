// A density of clips over two measures; a box drawn over it opens the clips in it.

const box = document.querySelector("[data-map]");
const canvas = box.querySelector("canvas");
const data = await (await fetch(box.dataset.map)).json();
const css = getComputedStyle(document.documentElement);
let begin = null, end = null;

function draw() {
  const wide = canvas.clientWidth, scale = devicePixelRatio || 1, cell = wide / data.size;
  canvas.width = canvas.height = wide * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, wide, wide);
  const most = Math.max(1, ...data.cells.map(([, , n]) => n));
  pen.fillStyle = css.getPropertyValue("--chosen");
  for (const [i, j, n] of data.cells) {
    pen.globalAlpha = 0.15 + 0.85 * (Math.log1p(n) / Math.log1p(most));
    pen.fillRect(i * cell, wide - (j + 1) * cell, cell + 0.5, cell + 0.5);
  }
  pen.globalAlpha = 1;
  if (begin && end) {
    pen.strokeStyle = css.getPropertyValue("--bad");
    pen.lineWidth = 2;
    pen.strokeRect(begin[0] * wide, begin[1] * wide, (end[0] - begin[0]) * wide, (end[1] - begin[1]) * wide);
  }
  canvas.dataset.drawn = "yes";
}

const at = (event) => {
  const rect = canvas.getBoundingClientRect();
  return [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height];
};
canvas.addEventListener("pointerdown", (event) => { begin = at(event); end = null; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => { if (begin && event.buttons) { end = at(event); draw(); } });
canvas.addEventListener("pointerup", () => {
  if (!begin || !end || !data.limits) return;
  const query = new URLSearchParams(box.dataset.query);
  const span = (name, first, last, [low, high]) => {
    const value = (share) => String(Number((low + (high - low) * share).toPrecision(6)));
    query.set(name, `${first < 0.01 ? "" : value(first)}..${last > 0.99 ? "" : value(last)}`);
  };
  span(data.x, Math.min(begin[0], end[0]), Math.max(begin[0], end[0]), data.limits[0]);
  span(data.y, 1 - Math.max(begin[1], end[1]), 1 - Math.min(begin[1], end[1]), data.limits[1]);
  location.href = `/clips?${query}`;
});
new ResizeObserver(draw).observe(canvas);
draw();
