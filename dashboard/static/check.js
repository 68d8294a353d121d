// Judging captions by keys, 1 to 4 as the buttons say, u takes the last one back; it moves on by itself.

const box = document.querySelector("[data-check]");
const status = box.querySelector("[role=status]");
const { left, right, caption, who, seed } = box.dataset;
const what = caption ? { caption_id: caption } : { left, right };
const store = caption ? "judged" : "compared";
const before = JSON.parse(sessionStorage.getItem(store));

async function send(of, verdict) {
  const tags = [...box.querySelectorAll("input:checked")].map((input) => input.value);
  const body = JSON.stringify({ ...of, verdict, tags, who, seed });
  const answer = await fetch(`/check${location.search}`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (!answer.ok) { status.textContent = `It was not kept: ${(await answer.json()).error}`; return; }
  if (verdict === "undone") sessionStorage.removeItem(store);
  else sessionStorage.setItem(store, JSON.stringify(of));
  location.reload();
}

for (const button of box.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => send(what, button.dataset.verdict));
}
document.addEventListener("keydown", (event) => {
  if (/^(SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") || document.activeElement?.matches("input:not([type=checkbox])")) return;
  if (event.key >= "1" && event.key <= "4") box.querySelectorAll("[data-verdict]")[Number(event.key) - 1].click();
  else if (event.key.toLowerCase() === "u" && before) send(before, "undone");
});
