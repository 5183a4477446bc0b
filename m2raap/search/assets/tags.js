"use strict";
// Tags as buttons: a click keeps only the clips with the tag, a second click removes the filter. `app.js` has the rest.

const TAG_P = 0.5; // as the server, from this probability on a clip has a tag
const MOST_TAGS = 8; // that a card shows

function tagButton(name, count) {
  const button = make("button", { type: "button", className: "tag", title: plain(name) },
    make("span", { className: "name", dir: "auto", textContent: plain(name) }));
  if (count !== undefined) {
    button.append(make("span", { className: "count", textContent: count.toLocaleString(state.lang) }));
    button.setAttribute("aria-label", say("facet", plain(name), count));
  }
  button.dataset.tag = name;
  button.setAttribute("aria-pressed", String(state.tags.includes(name)));
  return button;
}

// The tags that are filters, then those that the server proposes ({tag, clips}).
function paintFacets(rows) {
  state.facets = rows;
  const counts = new Map(rows.map((row) => [row.tag, row.clips]));
  const names = [...new Set([...state.tags, ...counts.keys()])];
  byId("facets").replaceChildren(...names.map((name) => {
    const button = tagButton(name, counts.get(name));
    button.addEventListener("click", () => toggleTag(name).then(() => focusTag(name)));
    return make("li", {}, button);
  }));
  byId("tags").hidden = !names.length;
}

function tagsOf(hit) {
  const names = hit.tags.filter((row) => row.p >= TAG_P).slice(0, MOST_TAGS).map((row) => row.tag);
  return names.map((name) => {
    const button = tagButton(name);
    button.tabIndex = -1;
    button.addEventListener("click", () =>
      toggleTag(name).then(() => document.activeElement === document.body && moveTo(0)));
    return button;
  });
}

function toggleTag(name) {
  state.tags = state.tags.includes(name) ? state.tags.filter((other) => other !== name) : [...state.tags, name];
  const { request } = state;
  const asksMore = request && (request.q || request.like || request.picture);
  return show(asksMore ? request : state.tags.length ? {} : null);
}

// The buttons were replaced: the one of the tag gets the focus, unless the user has moved it elsewhere.
function focusTag(name) {
  if (document.activeElement !== document.body) return;
  const button = [...byId("facets").querySelectorAll("button")].find((node) => node.dataset.tag === name);
  if (button) button.focus();
}
