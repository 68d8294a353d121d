// Another threshold, dragged: how many of the dropped would have been kept.

const box = document.querySelector("[data-threshold]");
const range = box.querySelector("input[type=range]");
const told = box.querySelector("[data-would]");
const svg = box.querySelector("svg");
let timer = 0;

range.addEventListener("input", () => {
  let line = svg.querySelector(".moved");
  if (!line) {
    line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "moved");
    line.setAttribute("y1", 0);
    line.setAttribute("y2", 100);
    svg.append(line);
  }
  const { low, high } = svg.dataset;
  const x = (480 * (Number(range.value) - Number(low))) / (Number(high) - Number(low) || 1);
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  clearTimeout(timer);
  timer = setTimeout(ask, 150);
});

async function ask() {
  const answer = await fetch(`${box.dataset.threshold}&at=${encodeURIComponent(range.value)}`);
  if (!answer.ok) return;
  const { would_keep, count } = await answer.json();
  const at = Number(Number(range.value).toPrecision(3));
  told.textContent = `At ${at}, ${would_keep.toLocaleString("en")} of these ${count.toLocaleString("en")} would be kept.`;
}
