// The player of one clip: steps, speed, loop, and preview frames that lead to their time.

const box = document.querySelector("[data-player]");
const video = box.querySelector("video");

if (video) {
  const seek = (to) => { video.currentTime = Math.min(Math.max(0, to), video.duration || 0); };
  const start = Number(box.dataset.t);
  if (start > 0) {
    if (video.readyState > 0) seek(start);
    else video.addEventListener("loadedmetadata", () => seek(start), { once: true });
  }
  for (const link of box.querySelectorAll("[data-seek]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      video.pause();
      seek(Number(link.dataset.seek));
      history.replaceState(null, "", link.href);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("#keys").open) return;
    const frame = 1 / Number(box.dataset.fps);
    if (event.key === ",") { video.pause(); seek(video.currentTime - frame); }
    else if (event.key === ".") { video.pause(); seek(video.currentTime + frame); }
    else if (event.key === "[") video.playbackRate = Math.max(0.125, video.playbackRate / 2);
    else if (event.key === "]") video.playbackRate = Math.min(8, video.playbackRate * 2);
    else if (event.key === "l") video.loop = !video.loop;
    else if (event.key === " " && !document.activeElement?.closest("video, button, summary, a")) {
      event.preventDefault();
      if (video.paused) video.play(); else video.pause();
    }
  });
  const latent = box.querySelector(".latent");
  if (latent) {
    video.addEventListener("timeupdate", () => {
      latent.scrollLeft = (latent.scrollWidth - latent.clientWidth) * (video.currentTime / (video.duration || 1));
    });
  }
}
