// What every page does: keys, forms that submit themselves, and the parts that a page has.

const has = (selector) => document.querySelector(selector);

for (const select of document.querySelectorAll("select[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
const typing = () => /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");

const keys = has("#keys");
const button = has("[data-keys]");
button.hidden = false;
button.addEventListener("click", () => keys.showModal());

let leads = false; // `g` was pressed, and a letter names the page
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (event.key === "Escape" && typing()) { document.activeElement.blur(); return; }
  if (typing()) return;
  if (leads) {
    leads = false;
    has(`nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  if (event.key === "g") { leads = true; setTimeout(() => { leads = false; }, 1500); }
  else if (event.key === "?") keys.showModal();
  else if (event.key === "/") { event.preventDefault(); has("[data-search]").focus(); }
  else if (event.key === "f" && has("#filters")) {
    if (refine) refine.open = true;
    event.preventDefault();
    has("#filters input:not([type=hidden]), #filters a")?.focus();
  } else if ("jk".includes(event.key)) step(event.key === "j" ? 1 : -1);
});

// On a narrow screen the clips come first, and filters open by a touch.
const refine = has("#filters > details");
if (refine && matchMedia("(max-width: 46rem)").matches) refine.open = false;

function step(by) {
  const shots = [...document.querySelectorAll(".tile .shot")];
  const at = shots.indexOf(document.activeElement);
  shots[Math.min(shots.length - 1, Math.max(0, at < 0 ? 0 : at + by))]?.focus();
}

// What is not counted yet comes into the page as soon as it is there.
async function lookAgain() {
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok) { setTimeout(lookAgain, 3000); return; }
  const made = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (made.querySelector("[data-waiting]")) setTimeout(lookAgain, 1000);
  else has("main").replaceWith(made.querySelector("main"));
}
if (has("[data-waiting]")) setTimeout(lookAgain, 500);

const parts = {
  "[data-live]": "./live.js",
  ".tile": "./tiles.js",
  "[data-side]": "./filters.js",
  "[data-threshold]": "./threshold.js",
  "[data-player]": "./player.js",
  "[data-grid]": "./grid.js",
  "[data-map]": "./map.js",
  "[data-chart]": "./charts.js",
  "[data-check]": "./check.js",
};
const here = Object.entries(parts).filter(([selector]) => has(selector));
// What can be dragged looks so once it can be.
Promise.allSettled(here.map(([, module]) => import(module))).then(() => {
  document.documentElement.dataset.ready = "yes";
});
