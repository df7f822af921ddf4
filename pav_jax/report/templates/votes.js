// Blind votes on pairs of videos. They stay in this browser's storage and are exported as JSON Lines.
const page = JSON.parse(document.getElementById("page").textContent);
const byId = new Map(page.comparisons.map((comparison) => [comparison.id, comparison]));
const VOTER = "pav.voter";
const VOTES = `pav.votes.${page.id}`;
const KEYS = {
  ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", 0: "tie", " ": "tie",
};
const [left, right] = ["left", "right"].map((side) => document.getElementById(side));
const element = (id) => document.getElementById(id);
const choiceButtons = [...document.querySelectorAll("[data-choice]")];
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;

let voter = readVoter();
let votes = readVotes(); // in the order they were given
let order = orderFor(voter);
let shown = null; // the comparison on the page

// ---------------------------------------------------------------------------------------- storage

function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    warn("This browser does not keep your votes. Download them before you close the page.");
  }
}

function load(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function readVoter() {
  const stored = load(VOTER);
  return /^[0-9a-f]{16}$/.test(stored ?? "") ? stored : newVoter();
}

function newVoter() {
  const words = crypto.getRandomValues(new Uint32Array(2));
  const id = [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
  store(VOTER, id);
  return id;
}

/** The stored votes; what is damaged, or of another page, is left out. */
function readVotes() {
  let stored;
  try {
    stored = JSON.parse(load(VOTES) ?? "[]");
  } catch {
    return [];
  }
  const isVote = (vote) => byId.has(vote?.comparison) && Object.values(KEYS).includes(vote.choice)
    && vote.voter === voter && Number.isInteger(vote.time);
  return Array.isArray(stored) ? stored.filter(isVote) : [];
}

// ------------------------------------------------------------------------------------------ order

/** Numbers in [0, 1) that follow from a seed of 32 bits: mulberry32. */
function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffle(items, random) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** A voter's order of the comparisons and the sides of their videos, which follow from its id. */
function orderFor(id) {
  const random = randomNumbers(parseInt(id.slice(0, 8), 16));
  const swaps = shuffle(page.comparisons.map((_, i) => i % 2 === 1), random); // half of them
  return shuffle(
    page.comparisons.map((comparison, i) => {
      const [first, second] = comparison.videos;
      return { comparison, left: swaps[i] ? second : first, right: swaps[i] ? first : second };
    }),
    random,
  );
}

// ----------------------------------------------------------------------------------------- videos

function setVideo(video, id) {
  if (video.src) URL.revokeObjectURL(video.src);
  const text = atob(document.getElementById(`video-${id}`).textContent);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
}

/** Starts both videos at the same moment, once both have loaded. */
function playTogether() {
  if ([left, right].some((video) => video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) return;
  const isPortrait = left.videoWidth < 0.8 * left.videoHeight;
  left.closest(".videos").classList.toggle("portrait", isPortrait);
  for (const video of [left, right]) {
    video.classList.toggle("small", video.videoWidth < 160);
    video.controls = reducedMotion;
    if (!reducedMotion) video.play().catch(() => { video.controls = true; });
  }
}

// ------------------------------------------------------------------------------------------- page

function warn(text) {
  element("warning").textContent = text;
  element("warning").hidden = !text;
}

function show() {
  const voted = new Set(votes.map((vote) => vote.comparison));
  const next = order.find(({ comparison }) => !voted.has(comparison.id)) ?? null;
  element("count").textContent = `${votes.length} of ${order.length}`;
  element("progress").max = order.length;
  element("progress").value = votes.length;
  element("comparison").hidden = !next;
  element("done").hidden = Boolean(next);
  element("undo").disabled = !votes.length;
  element("export").disabled = !votes.length;
  for (const button of choiceButtons) button.disabled = !next;
  if (next && next !== shown) {
    element("prompt").textContent = next.comparison.prompt;
    setVideo(left, next.left);
    setVideo(right, next.right);
  }
  if (!next) [left, right].forEach((video) => video.pause());
  shown = next;
}

function vote(choice) {
  if (!shown || choiceButtons[0].disabled) return;
  const { comparison, left: leftId, right: rightId } = shown;
  votes.push({
    page: page.id, comparison: comparison.id, voter, left: leftId, right: rightId, choice, time: Date.now(),
  });
  store(VOTES, JSON.stringify(votes));
  show();
}

function undo() {
  if (!votes.length) return;
  votes.pop();
  store(VOTES, JSON.stringify(votes));
  show();
}

function download() {
  const lines = votes.map((entry) => `${JSON.stringify(entry)}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = `votes-${page.id}-${voter}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function restart() {
  if (votes.length && !confirm("Delete the votes in this browser? Download them first.")) return;
  voter = newVoter();
  votes = [];
  store(VOTES, "[]");
  order = orderFor(voter);
  show();
}

for (const button of choiceButtons) {
  button.addEventListener("click", () => {
    button.blur(); // the space bar is a vote, not a second click
    vote(button.dataset.choice);
  });
}
element("undo").addEventListener("click", undo);
element("export").addEventListener("click", download);
element("restart").addEventListener("click", restart);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const isControl = event.target.closest?.("button, video");
  if (event.key.toLowerCase() === "u") {
    undo();
  } else if (event.key in KEYS && !(isControl && event.key === " ")) {
    event.preventDefault(); // the space bar scrolls
    vote(KEYS[event.key]);
  }
});
for (const video of [left, right]) {
  video.addEventListener("loadeddata", playTogether);
  video.addEventListener("error", () => {
    for (const button of choiceButtons) button.disabled = true;
    warn("This browser cannot play a video of this pair. Try another browser.");
  });
}
show();
