// The grid of shards by column versions. Colour and glyph both tell a state; arrows walk, Enter opens.

const box = document.querySelector("[data-grid]");
const canvas = box.querySelector("canvas");
const hover = box.querySelector(".hover");
const data = await (await fetch(box.dataset.grid)).json();
const colours = data.states.map((state) => {
  const probe = document.querySelector(`.legend .${state}`);
  return getComputedStyle(probe).backgroundColor;
});
const rows = data.versions.length, count = data.spans.length, label = 15;
const asked = new URLSearchParams(location.search).get("view");
const view = asked ? `?view=${encodeURIComponent(asked)}` : "";
let chosen = 0, row = 0, layout = null;

function draw() {
  const wide = box.clientWidth, scale = devicePixelRatio || 1;
  const size = Math.max(3, Math.min(22, Math.floor(Math.sqrt((wide * 420) / Math.max(1, count * rows)))));
  const columns = Math.max(1, Math.floor(wide / size)), bands = Math.ceil(count / columns);
  const band = rows * size + 8, tall = label * rows + 6 + bands * band;
  canvas.width = wide * scale;
  canvas.height = tall * scale;
  layout = { size, columns, band, top: label * rows + 6, tall };
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, wide, tall);
  pen.font = "12px system-ui";
  pen.fillStyle = getComputedStyle(document.body).color;
  data.versions.forEach((version, at) => pen.fillText(`${at + 1}. ${version}`, 2, 12 + label * at));
  pen.font = `${size - 5}px system-ui`;
  pen.textAlign = "center";
  for (let at = 0; at < count; at++) {
    const x = (at % columns) * size, y = layout.top + Math.floor(at / columns) * band;
    data.versions.forEach((version, line) => {
      const state = data.cells[version][at];
      pen.fillStyle = colours[state];
      pen.fillRect(x, y + line * size, size - 1, size - 1);
      if (size >= 11) {
        pen.fillStyle = "#10161c";
        pen.fillText(data.glyphs[data.states[state]], x + size / 2, y + line * size + size - 4);
      }
    });
  }
  const x = (chosen % columns) * size, y = layout.top + Math.floor(chosen / columns) * band + row * size;
  pen.strokeStyle = getComputedStyle(document.body).color;
  pen.lineWidth = 2;
  if (document.activeElement === canvas) pen.strokeRect(x, y, size - 1, size - 1);
  canvas.dataset.drawn = "yes";
}

function place(event) {
  const rect = canvas.getBoundingClientRect();
  const x = event.clientX - rect.left, y = (event.clientY - rect.top) * (layout.tall / rect.height) - layout.top;
  const band = Math.floor(y / layout.band), line = Math.floor((y - band * layout.band) / layout.size);
  const at = band * layout.columns + Math.floor(x / layout.size);
  return y >= 0 && at >= 0 && at < count && line >= 0 && line < rows ? [at, line] : null;
}

function tell(at, line) {
  const [first, last] = data.spans[at], version = data.versions[line];
  const shards = first === last ? `shard ${first}` : `shards ${first} to ${last}`;
  const problem = data.problems.find((one) => one.version === version && one.shard >= first && one.shard <= last);
  hover.textContent = `${version}, ${shards}: ${data.states[data.cells[version][at]]}${problem ? `: ${problem.problem}` : ""}`;
}

canvas.addEventListener("pointermove", (event) => { const found = place(event); if (found) tell(...found); });
canvas.addEventListener("click", (event) => { const found = place(event); if (found) location.href = `/shards/${data.spans[found[0]][0]}${view}`; });
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  if (event.key === "Enter" && count) { location.href = `/shards/${data.spans[chosen][0]}${view}`; return; }
  if (!(event.key in moves) || !count) return;
  event.preventDefault();
  chosen = Math.min(count - 1, Math.max(0, chosen + moves[event.key][0]));
  row = Math.min(rows - 1, Math.max(0, row + moves[event.key][1]));
  draw();
  tell(chosen, row);
});
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);
new ResizeObserver(draw).observe(box);
draw();
