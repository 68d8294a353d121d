// Curves of trainings, drawn by uPlot: raw values faint, means on them, the range of each bucket behind.

await new Promise((done, failed) => {
  const script = document.createElement("script");
  Object.assign(script, { src: "/static/vendor/uPlot-1.6.32.iife.min.js", onload: done, onerror: failed });
  const style = document.createElement("link");
  Object.assign(style, { rel: "stylesheet", href: "/static/vendor/uPlot-1.6.32.min.css" });
  document.head.append(style, script);
});
const { uPlot } = window;
const css = getComputedStyle(document.documentElement);
const ink = css.getPropertyValue("--soft"), line = css.getPropertyValue("--line");
const colours = ["--chosen", "--bad", "--good", "--seen", "--warn", "--ink"].map((name) => css.getPropertyValue(name));
const held = {};

async function read(from) {
  held[from] ??= fetch(from).then((answer) => answer.json());
  return held[from];
}

function axes(by) {
  const own = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui" };
  return [{ ...own, ...(by === "time" ? {} : { values: (_, ticks) => ticks.map(short) }) }, { ...own, size: 58, values: (_, ticks) => ticks.map(short) }];
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)} G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)} k`;
  return String(+value.toPrecision(3));
}

function made(name, data) {
  if (name === "lines") {
    const runs = Object.entries(data.lines);
    const tables = runs.map(([, { x, y }]) => [x, y]);
    const joined = tables.length ? uPlot.join(tables) : [[]];
    return [joined, runs.map(([run], at) => ({ label: run, stroke: colours[at % colours.length], width: 1.5, spanGaps: true })), "step"];
  }
  const { points, validation, by, marks } = data.curves;
  if (name === "validation") {
    const labels = ["loss", "shuffled", "baseline"];
    return [[validation.x, ...labels.map((key) => validation[key])], labels.map((label, at) => ({ label, stroke: colours[at], width: 1.5, points: { size: 6 } })), "step"];
  }
  const columns = [points.x, points[name] ?? []], series = [{ label: name, stroke: colours[0], width: 1.2, alpha: name === "loss" ? 0.35 : 1, spanGaps: true }];
  if (points[`${name}:low`]) {
    for (const end of ["low", "high"]) {
      columns.push(points[`${name}:${end}`]);
      series.push({ label: end, stroke: colours[0], width: 0.5, alpha: 0.3, points: { show: false }, spanGaps: true });
    }
  }
  if (name === "loss") {
    columns.push(points.loss_smooth);
    series.push({ label: "smoothed", stroke: colours[0], width: 2, spanGaps: true });
  }
  return [columns, series, by, by === "step" ? marks : null];
}

for (const figure of document.querySelectorAll("[data-chart]")) {
  const plot = figure.querySelector(".plot"), data = await read(figure.dataset.from);
  const [columns, series, by, marks] = made(figure.dataset.chart, data);
  const tall = figure.parentElement.classList.contains("small") ? 110 : 200;
  const drawMarks = (chart) => {
    for (const [kind, colour] of [["skipped", colours[1]], ["rolled_back", colours[3]]]) {
      for (const step of marks?.[kind] ?? []) {
        const x = chart.valToPos(step, "x", true);
        chart.ctx.fillStyle = colour;
        chart.ctx.fillRect(x, chart.bbox.top, 1, chart.bbox.height);
      }
    }
  };
  const chart = new uPlot({
    width: Math.max(120, plot.clientWidth), height: tall,
    scales: { x: { time: by === "time" } },
    series: [{ label: by }, ...series],
    axes: axes(by),
    legend: { show: figure.dataset.chart === "lines" || figure.dataset.chart === "validation" },
    hooks: { draw: [drawMarks] },
  }, columns, plot);
  figure.dataset.drawn = "yes";
  new ResizeObserver(() => chart.setSize({ width: Math.max(120, plot.clientWidth), height: tall })).observe(plot);
}
