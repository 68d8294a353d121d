// Counts beside the clips come after them where they are many; a range dragged over a histogram is a filter.

const side = document.querySelector("[data-side]");

async function load() {
  if (side.hasAttribute("data-done")) return;
  const shown = document.querySelector("#count"), whole = shown.textContent;
  const say = (count, before = "") => { shown.textContent = `${before}${Number(count).toLocaleString("en")} ${whole}`; };
  const counted = await fetch(side.dataset.side.replace("/clips/side", "/clips/count.json"));
  if (counted.ok) {
    const { count, is_all } = await counted.json();
    say(count, is_all ? "" : "at least ");
  }
  const answer = await fetch(side.dataset.side);
  if (!answer.ok) return;
  side.innerHTML = await answer.text();
  const count = side.querySelector("[data-count]");
  if (count) say(count.dataset.count);
}

function number(value) {
  return String(Number(value.toPrecision(6)));
}

function draggable(svg) {
  const { measure, low, high } = svg.dataset;
  const from = Number(low), to = Number(high), bars = svg.querySelectorAll("a").length;
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  let begin = null, shade = null;
  svg.addEventListener("pointerdown", (event) => { begin = at(event); svg.setPointerCapture(event.pointerId); event.preventDefault(); });
  svg.addEventListener("pointermove", (event) => {
    if (begin === null) return;
    if (!shade) {
      shade = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      shade.setAttribute("class", "range");
      shade.setAttribute("y", 0);
      shade.setAttribute("height", 56);
      svg.append(shade);
    }
    const end = at(event);
    shade.setAttribute("x", 240 * Math.min(begin, end));
    shade.setAttribute("width", Math.max(1, 240 * Math.abs(end - begin)));
  });
  svg.addEventListener("pointerup", (event) => {
    if (begin === null) return;
    const end = at(event), first = Math.min(begin, end), last = Math.max(begin, end);
    begin = null;
    if ((last - first) * bars < 0.5) { // a click: the bar's own link
      location.href = svg.querySelectorAll("a")[Math.min(bars - 1, Math.floor(first * bars))].getAttribute("href");
      return;
    }
    const query = new URLSearchParams(side.dataset.side.split("?")[1]);
    const value = (share) => number(from + (to - from) * share);
    query.set(measure, `${first < 0.01 ? "" : value(first)}..${last > 0.99 ? "" : value(last)}`);
    query.delete("after");
    location.href = `/clips?${query}`;
  });
  svg.addEventListener("click", (event) => event.preventDefault());
}

await load();
side.querySelectorAll("svg.histogram").forEach(draggable);
