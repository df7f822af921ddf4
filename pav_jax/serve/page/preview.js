// Videos of the prompt and of the rewrite, side by side.

import { askForFile } from "./server.js";

const place = document.getElementById("videos");
const status = document.getElementById("preview-status");
let number = 0; // of the last pair; an older one is not shown

export function clearVideos() {
  number += 1;
  for (const video of place.querySelectorAll("video")) URL.revokeObjectURL(video.src);
  place.replaceChildren();
  status.textContent = "";
}

/** Make the videos of {title: text}, one after the other. */
export async function showVideos(texts, seed) {
  clearVideos();
  const own = number;
  try {
    for (const [title, text] of Object.entries(texts)) {
      status.textContent = `${title} …`;
      const file = await askForFile("preview", { prompt: text, seed });
      if (own !== number) return;
      place.append(figure(title, URL.createObjectURL(file)));
    }
  } finally {
    if (own === number) status.textContent = "";
  }
}

function figure(title, address) {
  const result = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const video = document.createElement("video");
  caption.textContent = title;
  const autoplay = !matchMedia("(prefers-reduced-motion)").matches;
  Object.assign(video, { src: address, controls: true, loop: true, muted: true, autoplay, playsInline: true });
  video.setAttribute("aria-label", title);
  result.append(caption, video);
  return result;
}
