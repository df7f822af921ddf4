// Browsers allow a few dozen playing videos at a time: those out of sight give their source back.
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const sight = new IntersectionObserver((entries) => {
  for (const { target: video, isIntersecting } of entries) {
    if (isIntersecting && !video.hasAttribute("src")) {
      video.src = video.dataset.src;
    } else if (!isIntersecting && video.hasAttribute("src")) {
      video.removeAttribute("src");
      video.load();
    }
  }
}, { rootMargin: "400px" });
for (const video of document.querySelectorAll("video")) {
  video.dataset.src = video.getAttribute("src");
  const shape = () => video.videoWidth && video.style.setProperty("--shape", video.videoWidth / video.videoHeight);
  video.addEventListener("loadedmetadata", shape);
  shape();
  if (calm) {
    video.autoplay = false;
    video.controls = true;
    video.pause();
  }
  sight.observe(video);
}
