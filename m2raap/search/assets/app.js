"use strict";
// The search page. Everything that comes from an index (ids, captions, paths) is inserted as text, never as markup.

const byId = (id) => document.getElementById(id);
const TOP = 24;
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
const state = { lang: "en", about: null, hits: [], at: 0, request: null, turn: 0, tags: [], facets: [] };

const say = (name, ...values) => {
  const string = STRINGS[state.lang][name];
  return typeof string === "function" ? string(...values) : string;
};
// Control characters and characters that reorder text are shown as U+FFFD.
const plain = (text) => String(text).replace(HIDDEN, "\ufffd");

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function clock(seconds) {
  const tenths = Math.max(0, Math.round(seconds * 10));
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

// ---- asking

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error(say("offline"));
  }
  const tree = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(tree.error || answer.status);
  return tree;
}

function limits() {
  const fields = new URLSearchParams({ top: TOP });
  for (const id of ["source", "min_s", "max_s"]) if (byId(id).value) fields.set(id, byId(id).value);
  for (const tag of state.tags) fields.append("tag", tag);
  return fields;
}

// A request is one of {q}, {like}, {picture: File}, {} (clips with the chosen tags) or null (the start). All but a picture are
// kept in the address, so that Back works.
async function show(request, keepAddress = false) {
  state.request = request;
  const turn = ++state.turn;
  const fields = limits();
  const kept = new URLSearchParams(fields);
  kept.delete("top");
  if (!request || !request.picture) {
    for (const [name, value] of Object.entries(request || {})) kept.set(name, value);
    if (!keepAddress) history.pushState(null, "", `#${kept}`);
  }
  byId("start").hidden = Boolean(request);
  byId("query").value = request && request.q ? request.q : "";
  if (!request) {
    document.body.classList.remove("busy");
    paintFacets(state.about ? state.about.tags : []);
    return paint([]);
  }
  status(say("busy"));
  document.body.classList.add("busy");
  try {
    let answer;
    if (request.like) {
      answer = await ask(`/api/like/${encodeURIComponent(request.like)}?${fields}`);
    } else if (request.picture) {
      answer = await ask(`/api/image?${fields}`, {
        method: "POST", body: request.picture, headers: { "Content-Type": request.picture.type },
      });
    } else {
      if (request.q) fields.set("q", request.q);
      answer = await ask(`/api/search?${fields}`);
    }
    if (turn !== state.turn) return;
    paintFacets(answer.facets);
    paint(answer.hits);
  } catch (error) {
    if (turn !== state.turn) return;
    paintFacets([]);
    paint([], error.message);
  } finally {
    if (turn === state.turn) document.body.classList.remove("busy");
  }
}

// ---- painting

function status(text, fault = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("fault", fault);
}

function headline() {
  const { request, hits } = state;
  if (!request) return "";
  if (!hits.length) return say("none");
  if (request.q) return say("found", hits.length, plain(request.q));
  if (request.like) return say("alike", hits.length, plain(request.like));
  if (request.picture) return say("looks", hits.length, plain(request.picture.name));
  return say("tagged", hits.length, state.tags.map(plain).join(", "));
}

function paint(hits, fault = "") {
  state.hits = hits;
  state.at = 0;
  byId("hits").replaceChildren(...hits.map(card));
  status(fault ? say("failed", plain(fault)) : headline(), Boolean(fault));
  document.title = state.request && !fault ? `${headline()} · m2raap` : "m2raap";
}

function frameUrl(hit, n) {
  return `/frames/${encodeURIComponent(hit.clip_id)}/${n}.jpg`;
}

function strip(hit, go) {
  const inTime = [...hit.frames].sort((a, b) => a.n - b.n);
  return inTime.map((frame) => {
    const best = frame.n === hit.frames[0].n;
    const image = make("img", { alt: "", loading: "lazy", draggable: false, src: frameUrl(hit, frame.n) });
    const button = make("button", { type: "button", className: best ? "frame best" : "frame", tabIndex: -1 }, image);
    button.append(make("span", { className: "time", textContent: clock(frame.time_s) }));
    button.title = say("at", clock(frame.time_s)) + (best ? ` (${say("best")})` : "");
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => go(frame.time_s));
    return button;
  });
}

// Gives the frames of a strip the aspect ratio of the video, within limits, before the pictures arrive, so that nothing on
// the page moves when they do. Frames of unknown size have the ratio of the style sheet.
function shape(strip, hit) {
  if (!hit.width || !hit.height) strip.style.removeProperty("--ratio");
  else strip.style.setProperty("--ratio", Math.min(Math.max(hit.width / hit.height, 0.75), 1.8).toFixed(3));
  return strip;
}

// One caption per language, first that of the page's language.
function captions(hit) {
  const langs = [...new Set([state.lang, ...hit.captions.map((caption) => caption.lang)])];
  const chosen = langs.map((lang) => hit.captions.find((caption) => caption.lang === lang)).filter(Boolean);
  return chosen.map((caption, place) =>
    make("p", { className: place ? "caption soft" : "caption", lang: caption.lang, dir: "auto",
      textContent: plain(caption.text) }));
}

function card(hit, place) {
  const tags = tagsOf(hit);
  const facts = [plain(hit.clip_id), hit.source && plain(hit.source)];
  if (hit.duration_s !== null) facts.push(`${hit.duration_s.toFixed(1)} ${say("seconds")}`);
  const play = make("button", { type: "button", className: "primary small", textContent: say("play"), tabIndex: -1 });
  const like = make("button", { type: "button", className: "small", textContent: say("like"), tabIndex: -1 });
  play.addEventListener("click", () => open(hit));
  like.addEventListener("click", () => show({ like: hit.clip_id }));
  const node = make("li", { className: "hit", tabIndex: place ? -1 : 0 },
    shape(make("div", { className: "strip" }, ...strip(hit, (time) => open(hit, time))), hit),
    make("div", { className: "words" }, ...captions(hit)),
    make("div", { className: "facets", hidden: !tags.length }, ...tags),
    make("div", { className: "foot" },
      make("span", { className: "soft facts", dir: "auto", textContent: facts.filter(Boolean).join(" · ") }),
      make("span", { className: "score", textContent: hit.score.toFixed(3) }),
      play, like));
  node.setAttribute("aria-label", `${hit.rank}. ${hit.captions.length ? plain(hit.captions[0].text) : plain(hit.clip_id)}`);
  node.addEventListener("focus", () => moveTo(place, false));
  return node;
}

function moveTo(place, focus = true) {
  const nodes = byId("hits").children;
  if (!nodes.length) return;
  nodes[state.at].tabIndex = -1;
  state.at = Math.min(Math.max(place, 0), nodes.length - 1);
  nodes[state.at].tabIndex = 0;
  if (focus) {
    nodes[state.at].focus();
    nodes[state.at].scrollIntoView({ block: "nearest" });
  }
}

function columns() {
  const nodes = [...byId("hits").children];
  const first = nodes.findIndex((node) => node.offsetTop > nodes[0].offsetTop);
  return first < 0 ? nodes.length : first;
}

// ---- playing

const video = byId("video");
let playing = null;

function open(hit, time = hit.frames[0].time_s) {
  playing = { hit, time, stopped: hit.end_s !== null && time >= hit.end_s };
  byId("player-title").textContent = plain(hit.clip_id);
  byId("video-fault").hidden = true;
  video.hidden = false;
  shape(byId("seek"), hit).replaceChildren(...strip(hit, seek));
  for (const button of byId("seek").children) button.tabIndex = 0;
  byId("player-captions").replaceChildren(...captions(hit),
    make("p", { className: "soft path", dir: "auto", textContent: plain(hit.video) }));
  video.src = `/video/${encodeURIComponent(hit.clip_id)}`;
  if (!byId("player").open) byId("player").showModal();
  video.focus();
}

function seek(time) {
  playing.stopped = true; // a user who seeks may also watch past the end of the clip
  video.currentTime = time;
  video.play().catch(() => {});
}

video.addEventListener("loadedmetadata", () => {
  video.currentTime = playing.time;
  video.play().catch(() => {}); // a browser may require a click first
});
video.addEventListener("timeupdate", () => {
  const end = playing && playing.hit.end_s;
  if (end && video.currentTime >= end && !playing.stopped) {
    playing.stopped = true;
    video.pause();
  }
});
video.addEventListener("error", () => {
  if (!playing) return;
  video.hidden = true;
  byId("video-fault").textContent = say("noVideo");
  byId("video-fault").hidden = false;
});
byId("player").addEventListener("close", () => {
  playing = null;
  video.pause();
  video.removeAttribute("src");
  video.load();
  moveTo(state.at);
});
byId("close").addEventListener("click", () => byId("player").close());
byId("player").addEventListener("click", (event) => {
  if (event.target === byId("player")) byId("player").close(); // a click outside the box
});

// ---- language, filters, keys

function speak(lang) {
  state.lang = lang;
  document.documentElement.lang = lang === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  byId("query").placeholder = say("placeholder");
  byId("query").setAttribute("aria-label", say("placeholder"));
  byId("language").textContent = say("other");
  if (state.about) begin();
  paintFacets(state.facets);
  if (state.hits.length) {
    const at = state.at;
    paint(state.hits);
    moveTo(at, false);
  } else if (state.request) status(headline());
}

function begin() {
  const { about } = state;
  byId("about").textContent = say("about", about.clips);
  const order = [state.lang, ...about.langs].filter((lang, place, all) => all.indexOf(lang) === place);
  const texts = order.flatMap((lang) => (about.examples[lang] || []).map((text) => [lang, text]));
  byId("examples").replaceChildren(...texts.map(([lang, text]) => {
    const button = make("button", { type: "button", lang, dir: "auto", textContent: plain(text) });
    button.addEventListener("click", () => show({ q: text }));
    return make("li", {}, button);
  }));
  const chosen = byId("source").value;
  byId("source").replaceChildren(make("option", { value: "", textContent: say("anySource") }),
    ...about.sources.map((name) => make("option", { value: name, textContent: plain(name) })));
  byId("source").value = about.sources.includes(chosen) ? chosen : "";
  byId("source-row").hidden = about.sources.length < 2;
}

function fromAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  for (const id of ["source", "min_s", "max_s"]) byId(id).value = fields.get(id) || "";
  const q = fields.get("q");
  const like = fields.get("like");
  state.tags = [...new Set(fields.getAll("tag"))];
  show(q ? { q } : like ? { like } : state.tags.length ? {} : null, true);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = byId("query").value.trim();
  const request = q ? { q } : state.tags.length ? {} : null;
  if (request) show(request).then(() => state.hits.length && moveTo(0));
});
byId("picture").addEventListener("change", () => {
  const [picture] = byId("picture").files;
  if (picture) show({ picture });
  byId("picture").value = "";
});
for (const id of ["source", "min_s", "max_s"]) {
  byId(id).addEventListener("change", () => state.request && show(state.request));
}
byId("language").addEventListener("click", () => {
  speak(state.lang === "zh" ? "en" : "zh");
  localStorage.setItem("m2raap-lang", state.lang);
});
window.addEventListener("popstate", fromAddress);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("player").open) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (typing) {
    // The input has the focus at the start: a "/" there is the shortcut of the hint, not text.
    if (event.key === "/" && event.target === byId("query") && !byId("query").value) event.preventDefault();
    if (event.key === "Escape" || (event.key === "ArrowDown" && event.target === byId("query"))) moveTo(state.at);
    return;
  }
  const hit = state.hits[state.at];
  const onButton = event.target.tagName === "BUTTON" || event.target.tagName === "A";
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: () => -columns() };
  if (event.key === "/") {
    byId("query").focus();
    byId("query").select();
  } else if (event.key in steps && state.hits.length) {
    const step = steps[event.key];
    const focusedHit = document.activeElement && document.activeElement.closest(".hit");
    moveTo(focusedHit ? state.at + (typeof step === "function" ? step() : step) : state.at);
  } else if (event.key === "Enter" && hit && !onButton && event.target.closest(".hit")) {
    open(hit);
  } else if (event.key.toLowerCase() === "l" && hit && event.target.closest(".hit")) {
    // The card that had the focus was replaced: the first hit gets the focus, unless the user has moved it elsewhere.
    show({ like: hit.clip_id }).then(() => document.activeElement === document.body && moveTo(0));
  } else {
    return;
  }
  event.preventDefault();
});

const remembered = localStorage.getItem("m2raap-lang");
speak(remembered === "zh" || remembered === "en" ? remembered : navigator.language.startsWith("zh") ? "zh" : "en");
ask("/api/about").then((about) => {
  state.about = about;
  begin();
  fromAddress();
  if (!state.request) byId("query").focus();
}).catch((error) => status(say("failed", plain(error.message)), true));
