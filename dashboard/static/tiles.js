// Posters play when they are pointed at for a while, or by the space bar: one at a time.

const still = matchMedia("(prefers-reduced-motion: reduce)");
let playing = null, timer = 0;

function stop() {
  clearTimeout(timer);
  playing?.remove();
  playing = null;
}

function play(tile) {
  stop();
  if (!tile.querySelector(".length")) return; // an image
  playing = document.createElement("video");
  Object.assign(playing, { src: tile.querySelector(".shot img").src.replace(".poster.jpg", ".proxy.webm"), muted: true, loop: true, playsInline: true });
  playing.setAttribute("aria-hidden", "true");
  playing.onerror = stop;
  const shot = tile.querySelector(".shot");
  playing.onplaying = () => { shot.querySelector("img").hidden = true; };
  const remove = playing.remove.bind(playing);
  playing.remove = () => { shot.querySelector("img").hidden = false; remove(); };
  shot.prepend(playing);
  playing.play().catch(() => {});
}

for (const tile of document.querySelectorAll(".tile")) {
  tile.addEventListener("pointerenter", () => { if (!still.matches) timer = setTimeout(() => play(tile), 200); });
  tile.addEventListener("pointerleave", stop);
  tile.querySelector(".shot").addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    if (playing && tile.contains(playing)) stop(); else play(tile);
  });
}
