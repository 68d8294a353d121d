// Clips as points, or as a density; a line drawn around points, or a box over a density, opens the clips in it.

const box = document.querySelector("[data-map]");
const canvas = box.querySelector("canvas");
const said = Object.assign(document.createElement("p"), { className: "note" });
said.setAttribute("role", "status");
box.after(said);
async function asked(address) {
  const answer = await fetch(address);
  if (answer.ok) return answer;
  box.append(Object.assign(document.createElement("p"), { role: "status", textContent: `The map did not come (${answer.status}): load the page again.` }));
  throw new Error(`${address}: ${answer.status}`);
}

const points = box.dataset.points ? new DataView(await (await asked(box.dataset.points)).arrayBuffer()) : null;
const data = points ? { cells: [], size: 96 } : await (await asked(box.dataset.map)).json();
const lasso = points !== null || data.x === "embedding";
const css = getComputedStyle(document.documentElement);
const mark = box.dataset.mark?.split(",").map(Number);
const MOST_CORNERS = 48, BYTES = 5;
const clamp = (share) => Math.min(1, Math.max(0, share));
let line = [], picture = null, cross = null;

function colour(name) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = css.getPropertyValue(name).trim() || "#888";
  pen.fillRect(0, 0, 1, 1);
  return pen.getImageData(0, 0, 1, 1).data;
}

function drawPoints(pen, side, scale) {
  if (!picture || picture.width !== side) {
    picture = pen.createImageData(side, side);
    const colours = Array.from({ length: 9 }, (_, at) => colour(`--c${at}`));
    const count = points.byteLength / BYTES, radius = count > 50000 ? 0 : count > 5000 ? scale : 2 * scale;
    const round = Math.floor(radius);
    for (let at = 0; at < points.byteLength; at += BYTES) {
      const x = Math.round(points.getUint16(at, true) / 65535 * (side - 1));
      const y = Math.round((1 - points.getUint16(at + 2, true) / 65535) * (side - 1));
      const [red, green, blue] = colours[points.getUint8(at + 4)];
      for (let j = Math.max(0, y - round); j <= Math.min(side - 1, y + round); j++) {
        for (let i = Math.max(0, x - round); i <= Math.min(side - 1, x + round); i++) {
          const place = 4 * (j * side + i);
          picture.data[place] = red; picture.data[place + 1] = green; picture.data[place + 2] = blue;
          picture.data[place + 3] = 255;
        }
      }
    }
  }
  pen.putImageData(picture, 0, 0);
}

function drawCells(pen, wide) {
  const cell = wide / data.size, most = Math.max(1, ...data.cells.map(([, , n]) => n));
  pen.fillStyle = css.getPropertyValue("--chosen");
  for (const [i, j, n] of data.cells) {
    pen.globalAlpha = 0.15 + 0.85 * (Math.log1p(n) / Math.log1p(most));
    pen.fillRect(i * cell, wide - (j + 1) * cell, cell + 0.5, cell + 0.5);
  }
  pen.globalAlpha = 1;
}

function draw() {
  const wide = canvas.clientWidth, scale = devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(wide * scale);
  const pen = canvas.getContext("2d");
  if (points) drawPoints(pen, canvas.width, scale);
  pen.scale(scale, scale);
  if (!points) drawCells(pen, wide);
  pen.strokeStyle = css.getPropertyValue("--bad");
  pen.lineWidth = 2;
  if (mark) {
    pen.beginPath();
    pen.arc(mark[0] * wide, (1 - mark[1]) * wide, 9, 0, 7);
    pen.stroke();
  }
  if (line.length > 1) {
    pen.beginPath();
    if (lasso) for (const [x, y] of line) pen.lineTo(x * wide, y * wide);
    else {
      const [[x0, y0], [x1, y1]] = [line[0], line.at(-1)];
      pen.rect(x0 * wide, y0 * wide, (x1 - x0) * wide, (y1 - y0) * wide);
    }
    pen.closePath();
    pen.stroke();
  }
  if (cross) {
    pen.beginPath();
    pen.moveTo(cross[0] * wide - 9, cross[1] * wide);
    pen.lineTo(cross[0] * wide + 9, cross[1] * wide);
    pen.moveTo(cross[0] * wide, cross[1] * wide - 9);
    pen.lineTo(cross[0] * wide, cross[1] * wide + 9);
    pen.stroke();
  }
  canvas.dataset.drawn = "yes";
}

const at = (event) => {
  const rect = canvas.getBoundingClientRect();
  return [clamp((event.clientX - rect.left) / rect.width), clamp((event.clientY - rect.top) / rect.height)];
};

// Corners at an edge lie a little beyond it: the outermost clips are at the edge itself, and are meant.
function past(share) {
  const value = Number(share.toFixed(3));
  return value <= 0 ? -0.01 : value >= 1 ? 1.01 : value;
}

function around(query) {
  const step = Math.ceil(line.length / MOST_CORNERS);
  const corners = line.filter((_, place) => place % step === 0);
  if (corners.length < 3) return false;
  query.set("lasso", corners.map(([x, y]) => `${past(x)},${past(1 - y)}`).join(";"));
  return true;
}

function boxed(query) {
  if (!data.limits) return false;
  const [[x0, y0], [x1, y1]] = [line[0], line.at(-1)];
  const span = (name, first, last, [low, high]) => {
    const value = (share) => String(Number((low + (high - low) * share).toPrecision(6)));
    query.set(name, `${first < 0.01 ? "" : value(first)}..${last > 0.99 ? "" : value(last)}`);
  };
  span(data.x, Math.min(x0, x1), Math.max(x0, x1), data.limits[0]);
  span(data.y, 1 - Math.max(y0, y1), 1 - Math.min(y0, y1), data.limits[1]);
  return true;
}

function opened() {
  const query = new URLSearchParams(box.dataset.query);
  if (line.length > 1 && (lasso ? around(query) : boxed(query))) location.href = `/clips?${query}`;
  else { line = []; draw(); }
}

// By keys: arrows move a cross, c sets a corner, Enter opens what lies within them, or around the cross.
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function square([x, y], half) {
  const [x0, x1, y0, y1] = [x - half, x + half, y - half, y + half].map(clamp);
  return lasso ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : [[x0, y0], [x1, y1]];
}

canvas.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step && !["c", "Enter", "Escape"].includes(event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  cross ??= mark ? [mark[0], 1 - mark[1]] : [0.5, 0.5];
  if (step) cross = cross.map((share, axis) => clamp(share + step[axis] * (event.shiftKey ? 0.1 : 0.02)));
  else if (event.key === "c") line.push([...cross]);
  else if (event.key === "Escape") { line = []; cross = null; }
  else {
    if (line.length < (lasso ? 3 : 2)) line = square(cross, 0.05);
    opened();
    return;
  }
  draw();
  if (cross) said.textContent = `${Math.round(100 * cross[0])} % across, ${Math.round(100 - 100 * cross[1])} % up; ${line.length} corners`;
});

canvas.addEventListener("pointerdown", (event) => { line = [at(event)]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  if (!line.length || !event.buttons) return;
  line.push(at(event));
  draw();
});
canvas.addEventListener("pointerup", opened);
canvas.addEventListener("pointercancel", () => { line = []; draw(); });
new ResizeObserver(draw).observe(canvas);
draw();
