// Judging captions by keys: 1 right, 2 minor, 3 wrong, 4 unsure, u takes the last one back; it moves on by itself.

const box = document.querySelector("[data-check]");
const status = box.querySelector("[role=status]");
const before = sessionStorage.getItem("judged");

async function send(caption, verdict) {
  const tags = [...box.querySelectorAll("input:checked")].map((input) => input.value);
  const body = JSON.stringify({ caption_id: caption, verdict, tags, who: box.dataset.who, seed: box.dataset.seed });
  const answer = await fetch(`/check${location.search}`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (!answer.ok) { status.textContent = `It was not kept: ${(await answer.json()).error}`; return; }
  if (verdict === "undone") sessionStorage.removeItem("judged");
  else sessionStorage.setItem("judged", caption);
  location.reload();
}

for (const button of box.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => send(box.dataset.caption, button.dataset.verdict));
}
document.addEventListener("keydown", (event) => {
  if (/^(SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") || document.activeElement?.matches("input:not([type=checkbox])")) return;
  if (event.key >= "1" && event.key <= "4") box.querySelectorAll("[data-verdict]")[Number(event.key) - 1].click();
  else if (event.key.toLowerCase() === "u" && before) send(before, "undone");
});
