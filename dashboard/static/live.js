// Keeps the part of a page that changes while an ingest runs; the rest of the page, a video say, stays.

const part = document.querySelector("[data-live]");
const said = document.querySelector("#said");
let busy = false, again = false, spoken = 0;

async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const answer = await fetch(part.dataset.live);
    if (answer.ok) show(await answer.text());
  } finally {
    busy = false;
    if (again) { again = false; setTimeout(refresh, 500); }
  }
}

function show(text) {
  const inside = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const open = [...part.querySelectorAll("details")].map((item) => item.open);
  part.innerHTML = text;
  part.querySelectorAll("details").forEach((item, at) => { if (at in open) item.open = open[at]; });
  if (inside) part.querySelector(`a[href="${CSS.escape(inside)}"]`)?.focus();
  if (Date.now() - spoken > 10000) {
    spoken = Date.now();
    said.textContent = part.querySelector(".sentence")?.textContent ?? "";
  }
}

let poll = 0;
const source = new EventSource(`/events?after=${encodeURIComponent(part.dataset.after)}`);
source.onmessage = refresh;
source.onopen = () => { clearInterval(poll); poll = 0; };
source.onerror = () => { if (!poll) poll = setInterval(refresh, 5000); };
addEventListener("pagehide", () => source.close());
