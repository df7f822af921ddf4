// Browsers play only a few dozen videos at a time: release the source of those outside the viewport.
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
const observer = new IntersectionObserver((entries) => {
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
  const setAspectRatio = () => video.videoWidth && video.style.setProperty("--shape", video.videoWidth / video.videoHeight);
  video.addEventListener("loadedmetadata", setAspectRatio);
  setAspectRatio();
  if (reducedMotion) {
    video.autoplay = false;
    video.controls = true;
    video.pause();
  }
  observer.observe(video);
}
