// Judging captions by keys, 1 to 4 as the buttons say, u takes the last one back; it moves on by itself.

const box = document.querySelector("[data-check]");
const status = box.querySelector("[role=status]");
const keys = document.querySelector("#keys");
const { left, right, caption, who, seed } = box.dataset;
const what = caption ? { caption_id: caption } : { left, right };
const store = `${caption ? "judged" : "compared"}:${who}`;
const before = JSON.parse(sessionStorage.getItem(store)); // what was judged last, and when it was kept
let busy = false; // until the next one is shown, no key is meant for it

function refused(why) {
  busy = false;
  status.textContent = `It was not kept: ${why}`;
}

// `expects`: when what one knows of was kept; null: nothing is judged yet.
async function send(of, verdict, expects) {
  if (busy) return;
  busy = true;
  const tags = [...box.querySelectorAll("input:checked")].map((input) => input.value);
  const body = JSON.stringify({ ...of, verdict, tags, who, seed, expects });
  let answer, text;
  try {
    answer = await fetch(`/check${location.search}`, { method: "POST", body, headers: { "Content-Type": "application/json", Accept: "application/json" } });
    text = await answer.text();
  } catch {
    return refused("the server does not answer");
  }
  let data = {};
  try { data = JSON.parse(text); } catch { data = { error: text }; }
  if (!answer.ok) return refused(data.error || `the server says ${answer.status}`);
  if (verdict === "undone") sessionStorage.removeItem(store);
  else sessionStorage.setItem(store, JSON.stringify({ ...of, time_s: data.time_s }));
  location.reload();
}

for (const button of box.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => send(what, button.dataset.verdict, null));
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || keys.open) return;
  if (/^(SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") || document.activeElement?.matches("input:not([type=checkbox])")) return;
  if (event.key >= "1" && event.key <= "4") box.querySelectorAll("[data-verdict]")[Number(event.key) - 1].click();
  else if (event.key.toLowerCase() === "u" && before) {
    const { time_s: expects, ...of } = before;
    send(of, "undone", expects);
  }
});
