"use strict";
/** What the contact sheet and the library page share: words, elements, and parts of a photo's card and details. */
const PARTS = (() => {
  // ---- words --------------------------------------------------------------------------------------------------

  const SHORT = { sharpness: "sharp", exposure: "expo", noise: "noise", clip_iqa: "iqa", brisque: "brisq" };
  const NAMES = {
    clip_iqa: "CLIP-IQA", brisque: "BRISQUE", image_embedding: "image embedding and labels", clip_labels: "labels",
  };
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

  const plain = (text) => String(text).replace(UNSEEN, "\ufffd"); // without invisible and bidirectional controls
  const words = (name) => NAMES[name] ?? plain(name).replaceAll("_", " ");
  const whole = (number) => number.toLocaleString("en");
  const count = (number, one = "photo") => `${whole(number)} ${one}${number === 1 ? "" : "s"}`;
  const two = (number) => (number === null ? "\u2013" : number.toFixed(2));
  const percent = (share) => (share > 0 && share < 0.005 ? "<1 %" : `${Math.round(share * 100)} %`);
  const pixels = (radius) => `${radius.toFixed(2)} px`;
  const precise = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4))));

  /** By signal: name, its value in words, and how a photo with more or less of it compares. */
  const SIGNALS = {
    blur_px: ["edges", (value) => `edges ${pixels(value)} wide at 512 px`, "softer", "sharper"],
    streak: ["streaks", (value) => `edges ${value.toFixed(2)} times as wide in one direction as across it`, "higher", "lower"],
    noise_luma: ["noise", (value) => `noise of ${value.toFixed(2)} gray levels at 1024 px`, "noisier", "less noisy"],
    noise_chroma: ["blotches of colour", (value) => `blotches of colour of ${value.toFixed(2)} levels at 256 px`, "higher", "lower"],
    headroom_ev: ["headroom", (value) => `could be ${value.toFixed(2)} EV brighter before highlights clip`, "higher", "lower"],
    clipped_centre: ["clipped white", (value) => `${(value * 100).toFixed(1)} % of the middle is clipped to white`, "higher", "lower"],
    contrast: ["contrast", (value) => `contrast over ${Math.round(value * 100)} % of the range`, "higher", "lower"],
    blocks: ["JPEG blocks", (value) => `steps at JPEG blocks ${value.toFixed(2)} times those elsewhere`, "higher", "lower"],
    focus_px: ["sharpest place", (value) => `sharpest place: edges ${pixels(value)} wide in the original`, "softer", "sharper"],
    focus_median_px: ["whole frame", (value) => `whole frame: edges ${pixels(value)} wide in the original`, "softer", "sharper"],
  };

  /** Kinds of groups: the word for one, the title of the filter, and words for several. */
  const KINDS = { copy: ["copy", "copies", "copies"], burst: ["burst", "bursts", "bursts"], set: ["set", "sets", "sets"] };
  const kindOf = ({ kind, what }) => (what ? `${kind === "set" ? "" : `${kind}: `}${plain(what)}` : kind === "copy" ? "copies" : plain(kind));

  // ---- elements -----------------------------------------------------------------------------------------------

  /** An element with properties (`class` and names with `-` are attributes; `--x` a property of its style). */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("--")) element.style.setProperty(name, value);
      else if (name === "class" || name === "role" || name.includes("-")) element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  /** An SVG element with attributes. */
  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /** Make `elements` the children of `box`, in order, with few moves: a moved element loses the focus. */
  function place(box, elements) {
    const wanted = new Set(elements);
    for (const child of [...box.children]) if (!wanted.has(child)) child.remove();
    const focused = document.activeElement;
    let next = box.firstChild;
    for (const element of elements) {
      if (element === next) next = next.nextSibling;
      else box.insertBefore(element, next);
    }
    if (focused !== document.activeElement && box.contains(focused)) focused.focus({ preventScroll: true });
  }

  /** Call `draw` before the next frame after the page was scrolled or its size has changed, once for all of that. */
  function redraw(draw) {
    let waiting = false;
    const soon = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => ((waiting = false), draw()));
    };
    window.addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(soon).observe(document.body);
  }

  /** Give each dialog a button that closes it; a click beside a dialog does, too. */
  function makeClosable() {
    for (const dialog of document.querySelectorAll("dialog")) {
      const button = make("button", { type: "button", "aria-label": "Close", textContent: "\u00d7" });
      dialog.querySelector("header").append(button);
      dialog.addEventListener("click", ({ target }) => (target === dialog || target === button) && dialog.close());
    }
  }

  /** A button that selects a value, with a count. */
  function facet(value, title) {
    return make(
      "button",
      { type: "button", class: "facet", value, title },
      make("span", { class: "of", textContent: title }),
      make("span", { class: "count" }),
    );
  }

  function table(title, heads, rows) {
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
    return make("table", {}, make("caption", { textContent: title }), make("thead", {}, head), make("tbody", {}, ...rows));
  }

  const cell = (text, more = {}) => make("td", { textContent: text, ...more });

  // ---- photos -------------------------------------------------------------------------------------------------

  const labelLines = (labels) =>
    labels.map(([label, confidence]) =>
      make("p", { class: "label", title: plain(label), "--share": confidence }, make("bdi", { textContent: plain(label) }), make("span", { textContent: percent(confidence) })),
    );

  const flagBadges = (photo) => photo.flags.map(([name, reason]) => make("span", { class: "badge flag", title: plain(reason), textContent: plain(name) }));

  function smallScore({ name, best }, score, i) {
    const title = score === null ? `${words(name)}: not measured` : `${words(name)} ${two(score)} (${best} is best)`;
    return make(
      "span",
      { class: `score m${i}${score === null ? " none" : ""}`, title, "--share": score ?? 0 },
      make("span", { class: "of", textContent: `${SHORT[name] ?? words(name)}${best ? "\u2191" : "\u2193"}` }),
      make("b", { textContent: two(score) }),
    );
  }

  /** Why values are missing, a line for each reason. */
  function reasonLines(errors, reasonWords) {
    const stages = new Map();
    for (const [stage, reason] of errors) stages.set(reason, [...(stages.get(reason) ?? []), words(stage)]);
    return [...stages].map(([reason, of]) => (of.includes("photo") ? reasonWords(reason) : `${of.join(", ")}: ${reasonWords(reason)}`));
  }

  /** The flags and hints of a photo, with their reasons in words. */
  function flagsOf(photo) {
    const item = (kind) => ([name, reason]) => make("li", {}, make("strong", { textContent: plain(name) }), kind, make("bdi", { textContent: plain(reason) }));
    const items = [...photo.flags.map(item(": ")), ...photo.hints.map(item(" (hint): "))];
    return items.length ? [make("h3", { textContent: "Flags and hints" }), make("ul", { class: "flags" }, ...items)] : [];
  }

  function labelTable(photo) {
    if (!photo.labels.length) return make("p", { class: "muted", textContent: "No labels were measured." });
    const rows = photo.labels.map(([label, confidence, cosine]) =>
      make("tr", { class: "measured", "--share": confidence }, make("th", { scope: "row" }, make("bdi", { textContent: plain(label) })), cell(`${(confidence * 100).toFixed(1)} %`), cell(cosine.toFixed(3))),
    );
    const lead = photo.margin === null ? null : make("p", { class: "muted", textContent: `The first label leads by ${(photo.margin * 100).toFixed(1)} %.` });
    return make("div", {}, table("Labels", ["label", "confidence", "cosine"], rows), lead);
  }

  /** Facts as a list of titles and texts; those without a text are skipped. */
  function factList(facts) {
    const rows = facts.filter(([, text]) => text).flatMap(([title, text]) => [make("dt", { textContent: plain(title) }), make("dd", {}, make("bdi", { textContent: plain(text) }))]);
    return make("dl", { class: "facts" }, ...rows);
  }

  function groupWords({ group }) {
    const of = group.kind === "set" ? `one of ${whole(group.size)} of a set${group.what ? ` (${plain(group.what)})` : ""}` : `${group.kind === "copy" ? "one of" : "one of a burst of"} ${whole(group.size)}${group.kind === "copy" ? " copies" : ""}, rank ${whole(group.rank)}`;
    return `${of}: ${plain(group.reason)}`;
  }

  return {
    KINDS, SIGNALS, UNSEEN,
    cell, count, facet, factList, flagBadges, flagsOf, groupWords, kindOf, labelLines, labelTable, make, makeClosable, percent,
    pixels, place, plain, precise, reasonLines, redraw, smallScore, svg, table, two, whole, words,
  };
})();
