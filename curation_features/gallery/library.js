"use strict";
(() => {
  const {
    KINDS, SIGNALS,
    cell, count, facet, factList, flagBadges, flagsOf, groupWords, kindOf, labelLines, labelTable, make, makeClosable, percent,
    place, plain, precise, reasonLines, redraw, smallScore, svg, table, two, whole, words,
  } = PARTS;
  const $ = (id) => document.getElementById(id);
  const PAGE = 3000; // photos of one page; browsers limit the height of an element
  const WINDOW = 120; // photos of one request
  const FOUND = 200; // photos of a search
  const GROUPS = 30; // groups of one request
  const FEW_LABELS = 40;
  const MOST_MONTHS = 84; // shown as bars; more are shown by year
  const MOST_SPAN = 2400; // months; years without photos are skipped if there are more

  // ---- requests -----------------------------------------------------------------------------------------------

  /** The answer of the server; throws an `Error` with its reason. */
  async function ask(name, parameters, signal) {
    let answer;
    try {
      answer = await fetch(`api/${name}?${parameters ?? ""}`, { signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Start it again: curation-features library --open");
    }
    if (answer.status === 403) throw new Error(await answer.text());
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error.message);
    return found;
  }

  const keysOf = (photo) => new URLSearchParams({ batch: photo.batch, photo: photo.id, position: photo.position }); // files of equal bytes share an id
  const thumbnailOf = (photo) => `thumbnail?${keysOf(photo)}&sha256=${photo.sha256}`;
  const fullOf = (photo, which) => `full?${keysOf(photo)}&which=${which}`;

  const several = (number, one, more) => `${whole(number)} ${number === 1 ? one : more}`;
  const batchCount = (number) => several(number, "batch", "batches");

  function tell(message) {
    $("problem").textContent = message;
    $("problem").hidden = !message;
  }

  // ---- the view and its address ---------------------------------------------------------------------------------

  const TABS = ["photos", "batches", "groups"];
  const FACETS = {
    month: ["Time", (value) => (value ? monthName(value) : "no time known")],
    label: ["Labels", (value) => plain(value) || "no label"],
    status: ["Status", plain],
    flag: ["Flags and hints", (value) => plain(value) || "no flag or hint"],
    kind: ["Groups", (value) => KINDS[value]?.[1] ?? (plain(value) || "in no group")],
    reason: ["Not measured", (value) => reasonTitle(value)],
    camera: ["Camera", (value) => plain(value) || "not known"],
    batch: ["Batches", plain],
  };
  const ORDERS = {
    taken: ["capture time", "newest first", "oldest first"],
    sharpness: ["sharpness", "best first", "worst first"],
    exposure: ["exposure", "best first", "worst first"],
    noise: ["noise", "best first", "worst first"],
    clip_iqa: ["CLIP-IQA", "best first", "worst first"],
    brisque: ["BRISQUE", "best first", "worst first"],
    blur_px: ["blur (edges at 512 px)", "softest first", "sharpest first"],
    confidence: ["confidence", "surest first", "least sure first"],
    iso: ["ISO", "lowest first", "highest first"],
    size: ["pixels", "most first", "fewest first"],
    name: ["path", "A to Z", "Z to A"],
  };
  let about = null;
  let view;

  const noneChosen = () => Object.fromEntries(Object.keys(FACETS).map((name) => [name, new Set()]));
  const emptyView = () => ({ tab: "photos", text: "", like: null, where: "", name: "", chosen: noneChosen(), best: false, order: "taken", turned: false, page: 0 });
  const monthName = (month) => new Date(`${month}-15T12:00`).toLocaleDateString("en", { year: "numeric", month: "long" });
  const reasonWords = (reason) => about.reasons[reason] ?? words(reason);

  function reasonTitle(value) {
    const [stage, reason] = value.split(": ");
    if (!value) return "all measured";
    return stage === "photo" ? reasonWords(reason) : `${words(stage)}: ${reasonWords(reason ?? "")}`;
  }

  function viewFrom(fragment) {
    const [tab, rest = ""] = fragment.replace(/^#/, "").split(/\?(.*)/s);
    const given = new URLSearchParams(rest);
    const found = emptyView();
    if (TABS.includes(tab)) found.tab = tab;
    for (const name of ["text", "where", "name"]) found[name] = given.get(name) ?? "";
    if (given.has("like")) found.like = [given.get("of") ?? "", given.get("like")];
    for (const name in FACETS) found.chosen[name] = new Set(given.getAll(name));
    found.best = given.get("best") === "1";
    if (Object.hasOwn(ORDERS, given.get("sort"))) found.order = given.get("sort");
    found.turned = given.get("turned") === "1";
    found.page = Math.max(0, Math.floor(Number(given.get("page")) || 1) - 1);
    return found;
  }

  /** The filters and the order, as the server wants them. */
  function selectionOf(view) {
    const given = new URLSearchParams();
    for (const name of ["where", "name"]) if (view[name].trim()) given.set(name, view[name]);
    for (const name in FACETS) for (const value of view.chosen[name]) given.append(name, value);
    if (view.best) given.set("best", "1");
    if (view.order !== "taken") given.set("sort", view.order);
    if (view.turned) given.set("turned", "1");
    return given;
  }

  function fragmentOf(view) {
    const given = selectionOf(view);
    if (view.text) given.set("text", view.text);
    if (view.like) [given.append("of", view.like[0]), given.append("like", view.like[1])];
    if (view.page) given.set("page", view.page + 1);
    const rest = given.toString();
    return rest ? `${view.tab}?${rest}` : view.tab;
  }

  const isSearch = () => Boolean(view.text.trim() || view.like);

  /** Show a changed view; `push` adds it to the history of the browser. */
  function update({ push = true } = {}) {
    const fragment = `#${fragmentOf(view)}`;
    if (fragment !== location.hash) history[push && location.hash ? "pushState" : "replaceState"](null, "", fragment);
    showTab();
    if (view.tab === "batches") showBatches();
    if (view.tab === "groups") showGroups();
    if (view.tab === "photos") showPhotos();
  }

  function showTab() {
    for (const name of TABS) $(`${name}-view`).hidden = view.tab !== name;
    for (const link of document.querySelectorAll("nav [data-view]")) {
      if (link.dataset.view === view.tab) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    $("toggle-filters").disabled = view.tab !== "photos";
  }

  // ---- the list of photos: windows of it are loaded when they are shown --------------------------------------------

  let list = null;
  let active = 0; // index of the photo with the keyboard focus
  let shownKey = null; // of the list

  function newList(total = null) {
    return { total, photos: new Map(), asked: new Set(), version: null, line: null, stop: new AbortController() };
  }

  function showPhotos() {
    showControls();
    const key = `${selectionOf(view)}\n${view.text}\n${view.like}`;
    const isSame = key === shownKey;
    shownKey = key;
    if (!isSame) {
      tell("");
      list?.stop.abort();
      list = newList();
      $("grid").classList.add("loading");
    }
    if (isBeyond(list.total)) return firstPage();
    active = isSearch() ? 0 : view.page * PAGE;
    window.scrollTo(0, 0);
    if (isSearch() && !isSame) search(list);
    else if (!isSearch()) load(list, view.page * PAGE);
    if (isSame && list.total !== null) shownAgain();
  }

  /** Whether the page of the address does not exist. */
  const isBeyond = (total) => total !== null && view.page * PAGE >= Math.max(1, total);

  function firstPage() {
    view.page = 0;
    update({ push: false });
  }

  async function load(into, at) {
    const start = Math.floor(at / WINDOW) * WINDOW;
    if (into.asked.has(start) || (into.total !== null && start >= into.total)) return;
    into.asked.add(start);
    try {
      const given = selectionOf(view);
      given.set("start", start);
      given.set("count", WINDOW);
      const found = await ask("photos", given, into.stop.signal);
      if (into !== list) return;
      if (into.version !== null && into.version !== found.version) return refresh();
      if (into.hasFailed) tell("");
      if (version !== null && version !== found.version) [batches, shownGroups] = [null, null];
      version = found.version;
      [into.total, into.version, into.hasFailed] = [found.count, found.version, false];
      found.photos.forEach((photo, i) => photo && into.photos.set(start + i, photo));
      if (isBeyond(found.count)) return firstPage();
      shownAgain();
    } catch (error) {
      if (error.name === "AbortError") return;
      into.asked.delete(start); // the next drawing asks again
      into.hasFailed = true;
      failed(into, error);
    }
  }

  async function search(into) {
    try {
      const given = selectionOf(view);
      given.set("top", FOUND);
      if (view.text.trim()) given.set("text", view.text);
      if (view.like) {
        given.set("of", view.like[0]);
        given.set("photo", view.like[1]);
      }
      $("count").value = "searching\u2026";
      const found = await ask("search", given, into.stop.signal);
      if (into !== list) return;
      into.total = found.photos.length;
      into.line = found.likely !== null && found.likely < found.photos.length ? found.likely : null;
      into.searched = found.searched;
      found.photos.forEach((photo, i) => into.photos.set(i, photo));
      shownAgain();
    } catch (error) {
      if (error.name !== "AbortError") failed(into, error);
    }
  }

  function failed(into, error) {
    if (into !== list) return;
    tell(error.message);
    if (into.total === null) {
      into.total = 0;
      shownAgain();
    }
  }

  /** The library has changed: load again what is shown, at the same place. */
  function refresh() {
    batches = null;
    if (view.tab === "batches") showBatches();
    const isReading = view.tab === "groups" && shownGroups?.number > GROUPS; // further ones: they stay
    if (!isReading) shownGroups = null;
    if (view.tab === "groups") showGroups();
    if (isSearch()) return;
    shownKey = null;
    if (view.tab !== "photos") return;
    const [top, at] = [window.scrollY, active];
    showPhotos();
    active = at;
    requestAnimationFrame(() => window.scrollTo(0, top));
  }

  let version = null; // of the library

  async function lookForChanges() {
    if (document.hidden) return;
    const given = selectionOf(view);
    given.set("count", 1);
    try {
      const found = await ask("photos", given);
      if (found.version !== (version ?? found.version)) refresh();
      version = found.version;
    } catch {
      // said by the next request of the user
    }
  }

  function shownAgain() {
    $("grid").classList.remove("loading");
    for (const photo of list.photos.values()) photo.scores.forEach((score, i) => score !== null && measured.add(i));
    showTotals();
    draw();
    if (!list.isCounted) loadCounts(); // after the photos: counts of a million take seconds
    list.isCounted = true;
  }

  function showTotals() {
    const { total } = list;
    const pages = Math.max(1, Math.ceil(total / PAGE));
    $("pager").hidden = pages < 2 || isSearch();
    if (!$("pager").hidden) {
      if ($("page").length !== pages) $("page").replaceChildren(...Array.from({ length: pages }, (_, i) => new Option(`${whole(i + 1)} of ${whole(pages)}`, String(i))));
      $("page").value = String(view.page);
      $("page-before").disabled = view.page === 0;
      $("page-after").disabled = view.page >= pages - 1;
    }
    const found = isSearch() ? `${whole(total)} best of ${count(list.searched ?? 0)}${list.line === null ? "" : `, ${whole(list.line)} above the line`}` : count(total);
    const [from, to] = rangeShown();
    $("count").value = pages > 1 && !isSearch() ? `${found}, ${whole(from + 1)} to ${whole(to)}` : found;
    $("nothing").hidden = total > 0;
    $("nothing-text").textContent = isSearch() || isFiltered() ? "No photo matches." : "No batch is finished yet: curation-features run FOLDER";
    $("clear-filters").hidden = !isSearch() && !isFiltered();
    if (!isSearch() && !isFiltered()) document.title = `Library: ${count(total)}`;
  }

  const rangeShown = () => (isSearch() ? [0, list.total] : [view.page * PAGE, Math.min(list.total, (view.page + 1) * PAGE)]);

  // ---- the grid: only visible cards are built -------------------------------------------------------------------

  const grid = $("grid");
  const cards = new Map(); // by index
  const measured = new Set(); // metrics of which a shown photo has a score

  function geometry() {
    const style = getComputedStyle(grid);
    const [least, row, gap, letter] = [style.gridAutoColumns, style.gridAutoRows, style.columnGap, style.fontSize].map(parseFloat);
    const columns = Math.max(1, Math.floor((grid.clientWidth + gap) / (least + gap)));
    return { columns, gap, pitch: row + gap, width: (grid.clientWidth - gap * (columns - 1)) / columns, lineHeight: letter * 3 };
  }

  /** The row and the column of a card, and whether it is below the line of a search. */
  function cellOf(i, columns) {
    const at = i - rangeShown()[0];
    if (list.line === null || at < list.line) return [Math.floor(at / columns), at % columns, false];
    const below = at - list.line;
    return [Math.ceil(list.line / columns) + Math.floor(below / columns), below % columns, true];
  }

  function draw() {
    if (!list || list.total === null || view.tab !== "photos") return;
    const [from, to] = rangeShown();
    grid.hidden = to <= from;
    const { columns, gap, pitch, width, lineHeight } = geometry();
    const [lastRow, , isBelow] = to > from ? cellOf(to - 1, columns) : [0, 0, false];
    const topOf = (row, below) => row * pitch + (below ? lineHeight : 0);
    grid.style.setProperty("--height", `${topOf(lastRow + 1, isBelow) - gap}px`);
    grid.style.setProperty("--width", `${width}px`);
    grid.dataset.sorted = about.metrics.findIndex(({ name }) => name === view.order);
    const spare = window.innerHeight / 2;
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(from, from + Math.floor((top - spare - lineHeight) / pitch) * columns - columns);
    const end = Math.min(to, from + Math.ceil((top + window.innerHeight + spare) / pitch) * columns);
    const hadFocus = grid.contains(document.activeElement);
    const seen = new Set();
    for (let i = first; i < end; i++) seen.add(i);
    if (to > from) seen.add(Math.min(to - 1, Math.max(from, active)));
    const wanted = [...seen].sort((a, b) => a - b).map((i) => {
      const card = cardAt(i);
      const [row, column, below] = cellOf(i, columns);
      card.style.setProperty("--x", `${column * (width + gap)}px`);
      card.style.setProperty("--y", `${topOf(row, below)}px`);
      card.classList.toggle("unlikely", below);
      card.tabIndex = i === active ? 0 : -1;
      card.setAttribute("aria-posinset", i + 1);
      card.setAttribute("aria-setsize", list.total);
      return card;
    });
    const line = list.line === null || !to ? [] : [lineOfSearch(Math.ceil(list.line / columns) * pitch - gap / 2 + 4)];
    place(grid, [...wanted, ...line]);
    if (hadFocus && !grid.contains(document.activeElement)) cards.get(active)?.focus({ preventScroll: true }); // its photo was loaded
    const kept = new Set(wanted);
    for (const [i, card] of cards) if (!kept.has(card)) cards.delete(i);
    if (!isSearch()) for (let i = first; i < end; i += 1) if (!list.photos.has(i)) load(list, i);
  }

  function lineOfSearch(y) {
    const words = list.line === 0 ? "No photo clearly matches; these are the nearest" : "Less likely from here";
    return make("p", { class: "likely-line", role: "presentation", "--y": `${y}px`, textContent: words });
  }

  function cardAt(i) {
    const photo = list.photos.get(i);
    let card = cards.get(i);
    if (card && card.photo === photo) return card;
    card?.remove();
    card = photo ? makeCard(photo) : make("div", { class: "card waiting", role: "option", "aria-label": "loading", "aria-selected": false }, make("div", { class: "frame" }));
    card.photo = photo;
    card.index = i;
    cards.set(i, card);
    return card;
  }

  function makeCard(photo) {
    const group = photo.group && make("span", { class: "badge group-badge", title: plain(photo.group.reason), textContent: groupBadge(photo.group) });
    const state = photo.status === "ok" ? null : make("span", { class: "badge", textContent: photo.status });
    const corner = [photo.cosine !== undefined && hitOf(photo), photo.copies > 0 && make("span", { class: "hit", textContent: `+${several(photo.copies, "copy", "copies")}` })].filter(Boolean);
    return make(
      "div",
      { class: `card ${photo.status}`, role: "option", "aria-selected": false, "aria-label": spoken(photo) },
      make(
        "div",
        { class: "frame" },
        pictureOf(photo),
        make("span", { class: "badges" }, group, state, ...flagBadges(photo)),
        make("span", { class: "similar badge", "aria-hidden": true, title: "Similar photos (S)", textContent: "similar" }),
        make("span", { class: "corner" }, ...corner),
      ),
      make("p", { class: "name", title: plain(photo.path) }, make("bdi", { textContent: plain(photo.name) }), " ", make("bdi", { class: "muted", textContent: plain(photo.batch) })),
      make("div", { class: "said" }, ...labelsOrReasons(photo)),
      make("div", { class: "scores" }, ...about.metrics.map((metric, m) => (measured.has(m) ? smallScore(metric, photo.scores[m], m) : ""))),
    );
  }

  const groupBadge = (group) => `${kindOf(group)} ${group.kind === "set" ? whole(group.size) : `rank ${whole(group.rank)} of ${whole(group.size)}`}`;
  const hitOf = ({ cosine, standard }) => make("span", { class: "hit", title: `cosine ${cosine.toFixed(3)}: ${standard.toFixed(1)} standard deviations above the mean of all photos`, textContent: `${cosine.toFixed(3)} \u00b7 ${standard.toFixed(1)} \u03c3` });

  function labelsOrReasons(photo) {
    const reasons = reasonLines(photo.errors, reasonWords);
    const labels = labelLines(photo.labels.slice(0, reasons.length ? 2 : 3));
    const why = reasons.length ? make("p", { class: labels.length ? "why short" : "why", title: reasons.join("\n"), textContent: reasons.join("; ") }) : null;
    return [...labels, why];
  }

  function pictureOf(photo) {
    if (!photo.sha256) return make("span", { class: "muted", textContent: "no picture" });
    const image = make("img", { alt: "", decoding: "async", draggable: false, src: thumbnailOf(photo) });
    image.addEventListener("error", () => image.replaceWith(make("span", { class: "muted", textContent: "no picture" })));
    return image;
  }

  function spoken(photo) {
    const [label] = photo.labels;
    const parts = [plain(photo.name), `batch ${plain(photo.batch)}`, photo.status, photo.taken, ...photo.flags.map(([name]) => `flag ${plain(name)}`), photo.group && groupWords(photo), label && `${plain(label[0])} ${percent(label[1])}`, photo.cosine !== undefined && `cosine ${photo.cosine.toFixed(3)}`, ...reasonLines(photo.errors, reasonWords)];
    const scores = about.metrics.map(({ name }, i) => photo.scores[i] !== null && `${words(name)} ${two(photo.scores[i])}`);
    return [...parts, ...scores].filter(Boolean).join(", ");
  }

  function focusOn(i) {
    const [from, to] = rangeShown();
    if (to <= from) return; // not loaded yet
    active = Math.min(to - 1, Math.max(from, i));
    const { columns, pitch, lineHeight } = geometry();
    const [row, , below] = cellOf(active, columns);
    const y = grid.getBoundingClientRect().top + row * pitch + (below ? lineHeight : 0);
    const bar = $("photos-view").querySelector(".toolbar").offsetHeight;
    if (y < bar) window.scrollBy(0, y - bar - 8);
    else if (y + pitch > window.innerHeight) window.scrollBy(0, y + pitch - window.innerHeight + 8);
    draw();
    cards.get(active)?.focus({ preventScroll: true });
  }

  function pressedInGrid(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { columns, pitch } = geometry();
    const screen = Math.max(1, Math.floor(window.innerHeight / pitch) - 1) * columns;
    const [from, to] = rangeShown();
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -screen, PageDown: screen, Home: from - active, End: to };
    if (event.key in steps) {
      const goal = active + steps[event.key];
      if (Math.abs(steps[event.key]) !== columns || (goal >= from && goal < to)) focusOn(goal);
    } else if (event.key === "Enter" || event.key === " ") openDetail(active);
    else if (event.key === "s" && list.photos.has(active)) similarTo(list.photos.get(active));
    else return;
    event.preventDefault();
  }

  function clickedInGrid(event) {
    const card = event.target.closest(".card");
    if (!card?.photo) return;
    active = card.index;
    draw();
    card.focus({ preventScroll: true });
    if (event.target.closest(".similar")) similarTo(card.photo);
    else openDetail(card.index);
  }

  function similarTo(photo) {
    if (!photo.sha256) return tell("This photo could not be read, so nothing is known to be similar to it.");
    if ($("detail").open) $("detail").close();
    view = { ...emptyView(), chosen: view.chosen, where: view.where, like: [photo.batch, photo.id] };
    names.set(String(view.like), photo.name);
    update();
  }

  const names = new Map(); // of photos that others were compared with

  // ---- counts: time, labels, facets -----------------------------------------------------------------------------

  let counts = null;
  let counting = new AbortController();
  let summary = "";

  async function loadCounts() {
    counting.abort();
    counting = new AbortController();
    const { signal } = counting;
    try {
      let found;
      while ((found = await ask("counts", selectionOf(view), signal)).loaded < 1) $("summary").textContent = `Counting\u2026 ${percent(found.loaded)}`;
      counts = found;
      showCounts();
    } catch (error) {
      if (error.name === "AbortError") return;
      $("summary").textContent = summary;
      if (list?.total !== 0) tell(error.message);
    }
  }

  function showCounts() {
    showMonths();
    showCloud();
    for (const name of ["status", "flag", "kind", "reason", "camera", "batch"]) showFacet(name);
    if (!isFiltered()) summary = `${count(counts.photos)} in ${batchCount(counts.batches)}`;
    $("summary").textContent = summary;
  }

  const toggle = (set, value) => {
    if (!set.delete(value)) set.add(value);
    changed();
  };

  /** The filters have changed: begin with the first page. */
  function changed() {
    view.page = 0;
    update();
  }

  const LISTED = { status: ["failed", "degraded", "ok"], kind: ["copy", "burst", "set", ""] };

  function showFacet(name) {
    const [title, said] = FACETS[name];
    const chosen = view.chosen[name];
    const numbers = new Map(counts[name]);
    for (const value of chosen) if (!numbers.has(value)) numbers.set(value, 0);
    if (name === "reason") numbers.delete("");
    let entries = [...numbers];
    if (name === "flag") entries.sort(([a], [b]) => flagPlace(a) - flagPlace(b));
    else if (name in LISTED) entries.sort(([a], [b]) => LISTED[name].indexOf(a) - LISTED[name].indexOf(b));
    else if (name === "batch") entries.sort(([a], [b]) => (a < b ? 1 : -1));
    const box = $("facets").querySelector(`[data-facet=${name}]`) ?? makeFacet(name, title);
    const values = box.querySelector(".facets");
    box.hidden = !entries.length || (entries.length === 1 && !chosen.size && name !== "status");
    box.querySelector("summary .count").textContent = whole(entries.length);
    const most = Math.max(1, ...entries.map(([, number]) => number));
    const old = new Map([...values.children].map((button) => [button.value, button]));
    place(values, entries.map(([value, number]) => {
      const button = old.get(value) ?? facet(value, said(value));
      button.onclick = () => toggle(view.chosen[name], value);
      button.setAttribute("aria-pressed", chosen.has(value));
      button.classList.toggle("none", !number);
      button.style.setProperty("--share", number / most);
      button.lastChild.textContent = whole(number);
      return button;
    }));
  }

  const flagPlace = (name) => [...about.flags, ...about.hints, ""].indexOf(name);

  function makeFacet(name, title) {
    const isOpen = ["status", "flag", "kind"].includes(name);
    const heading = make("summary", {}, make("span", { class: "title", textContent: title }), " ", make("span", { class: "count" }));
    const values = make("div", { class: `facets scrolls${isOpen ? " pairs" : ""}`, role: "group", "aria-label": title });
    const box = make("details", { class: "group", open: isOpen || view.chosen[name].size > 0, "data-facet": name }, heading, values);
    $("facets").append(box);
    return box;
  }

  /** Bars of months, or of years if there are many. */
  function showMonths() {
    const numbers = new Map(counts.month);
    const known = [...numbers.keys()].filter(Boolean).sort();
    const spans = monthsBetween(known);
    const byYear = spans.length > MOST_MONTHS;
    const bars = new Map();
    for (const month of spans) {
      const key = byYear ? month.slice(0, 4) : month;
      bars.set(key, [...(bars.get(key) ?? []), month]);
    }
    const sums = [...bars].map(([key, months]) => [key, months, months.reduce((sum, month) => sum + (numbers.get(month) ?? 0), 0)]);
    const most = Math.max(1, ...sums.map(([, , number]) => number));
    const chosen = view.chosen.month;
    const old = new Map([...$("months").children].map((button) => [button.value, button]));
    const buttons = sums.map(([key, months, number], i) => {
      const button = old.get(key) ?? make("button", { type: "button", value: key });
      const title = `${byYear ? key : monthName(key)}: ${count(number)}`;
      button.title = title;
      button.setAttribute("aria-label", title);
      button.setAttribute("aria-pressed", months.some((month) => chosen.has(month)));
      button.style.setProperty("--share", number ? Math.max(0.04, number / most) : 0);
      button.tabIndex = i === 0 ? 0 : -1;
      button.onclick = (event) => chooseMonths(sums, i, event.shiftKey);
      return button;
    });
    place($("months"), buttons);
    const unknown = numbers.get("") ?? 0;
    $("months").parentElement.hidden = !known.length;
    $("month-ends").replaceChildren(
      make("span", { textContent: sums[0]?.[0] ?? "" }),
      unknown || chosen.has("") ? make("button", { type: "button", class: "link", "aria-pressed": chosen.has(""), textContent: `${whole(unknown)} without a time`, onclick: () => toggle(chosen, "") }) : "",
      make("span", { textContent: sums.at(-1)?.[0] ?? "" }),
    );
  }

  let lastMonth = 0;

  function chooseMonths(sums, i, isRange) {
    const [from, to] = isRange ? [Math.min(i, lastMonth), Math.max(i, lastMonth)] : [i, i];
    const months = sums.slice(from, to + 1).flatMap(([, of]) => of);
    const { month: chosen } = view.chosen;
    const isOff = !isRange && months.some((month) => chosen.has(month));
    for (const month of months) isOff ? chosen.delete(month) : chosen.add(month);
    lastMonth = i;
    changed();
  }

  /** All months from the first to the last; only the known ones if a time is so wrong that there are too many. */
  function monthsBetween(known) {
    if (!known.length) return [];
    const number = (month) => Number(month.slice(0, 4)) * 12 + Number(month.slice(5)) - 1;
    const name = (n) => `${String(Math.floor(n / 12)).padStart(4, "0")}-${String((n % 12) + 1).padStart(2, "0")}`;
    const [from, to] = [number(known[0]), number(known.at(-1))];
    if (to - from >= MOST_SPAN) return known;
    return Array.from({ length: to - from + 1 }, (_, i) => name(from + i));
  }

  let allLabels = false;

  function showCloud() {
    const chosen = view.chosen.label;
    const entries = counts.label.filter(([value]) => value);
    const shown = entries.slice(0, allLabels ? entries.length : FEW_LABELS);
    for (const value of chosen) if (value && !shown.some(([other]) => other === value)) shown.push([value, entries.find(([other]) => other === value)?.[1] ?? 0]);
    shown.sort(([a], [b]) => a.localeCompare(b));
    const most = Math.max(1, ...shown.map(([, number]) => number));
    const least = Math.min(most, ...shown.map(([, number]) => number));
    const shareOf = (number) => (most > least ? Math.sqrt((number - least) / (most - least)) : 0.4);
    const old = new Map([...$("cloud").children].map((button) => [button.value, button]));
    place($("cloud"), shown.map(([value, number]) => {
      const button = old.get(value) ?? make("button", { type: "button", value }, make("bdi", { textContent: plain(value) }), make("span", { class: "count" }));
      button.title = `${plain(value)}: ${count(number)}`;
      button.lastChild.textContent = whole(number);
      button.setAttribute("aria-pressed", chosen.has(value));
      button.style.setProperty("--share", shareOf(number));
      button.onclick = () => toggle(chosen, value);
      return button;
    }));
    $("cloud").parentElement.hidden = !shown.length;
    $("all-labels").hidden = entries.length <= FEW_LABELS;
    $("all-labels").textContent = allLabels ? "Show fewer" : `Show all ${whole(entries.length)}`;
  }

  // ---- controls -------------------------------------------------------------------------------------------------

  function isFiltered() {
    return Boolean(view.where.trim() || view.name.trim() || view.best || Object.values(view.chosen).some(({ size }) => size));
  }

  function showControls() {
    for (const name of ["text", "where", "name"]) if ($(name).value !== view[name]) $(name).value = view[name];
    $("best").checked = view.best;
    $("orders").hidden = isSearch();
    $("sort").value = view.order;
    $("direction").replaceChildren(...ORDERS[view.order].slice(1).map((text, i) => new Option(text, String(i), false, Boolean(i) === view.turned)));
    showChips();
    if (counts) showCounts();
  }

  function showChips() {
    const chips = [];
    const chip = (text, remove) => chips.push(make("button", { type: "button", class: "chip", title: "Remove this filter", onclick: () => (remove(), changed(), focusChip()) }, text));
    if (view.text.trim()) chip(`search: ${plain(view.text)}`, () => (view.text = ""));
    if (view.like) chip(`similar to ${plain(names.get(String(view.like)) ?? "a photo")}`, () => (view.like = null));
    if (view.where.trim()) chip(`filter: ${plain(view.where)}`, () => (view.where = ""));
    if (view.name.trim()) chip(`name: ${plain(view.name)}`, () => (view.name = ""));
    for (const [name, [title, said]] of Object.entries(FACETS)) {
      const values = [...view.chosen[name]].sort();
      if (name === "month" && values.length > 2) chip(`${monthName(values.find(Boolean))} to ${monthName(values.at(-1))}`, () => view.chosen.month.clear());
      else for (const value of values) chip(`${["label", "month"].includes(name) ? "" : `${title.toLowerCase()}: `}${said(value)}`, () => view.chosen[name].delete(value));
    }
    if (view.best) chip("best of each group", () => (view.best = false));
    if (chips.length > 1) chips.push(make("button", { type: "button", class: "chip all", onclick: () => (clearFilters(), focusChip()) }, "clear all"));
    $("chips").replaceChildren(...chips);
    $("chips").hidden = !chips.length;
  }

  const focusChip = () => ($("chips").firstElementChild ?? $("text")).focus();

  function clearFilters() {
    view = { ...emptyView(), order: view.order, turned: view.turned };
    update();
  }

  // ---- batches --------------------------------------------------------------------------------------------------

  let batches = null;
  let batchKind = "all";
  const BATCH_HEADS = ["Batch", "Photos", "Degraded", "Failed", "Finished", "Size", "Stale: a run now would give another result"];
  const KEEP = {
    all: () => true,
    stale: (batch) => batch.stale.length > 0,
    failed: (batch) => (batch.statuses?.failed ?? 0) > 0,
    waiting: (batch) => batch.state !== "finished",
  };

  async function loadBatches() {
    if (batches) return batches;
    batches = (await ask("batches")).batches;
    batches.sort((a, b) => ((a.finished ?? "~") < (b.finished ?? "~") ? 1 : -1));
    const stale = batches.filter(KEEP.stale).length;
    $("stale-count").textContent = stale ? `${whole(stale)} stale` : "";
    return batches;
  }

  async function showBatches() {
    try {
      if (!batches) $("batch-count").value = "reading\u2026";
      const all = await loadBatches();
      const shown = all.filter(KEEP[batchKind]);
      $("batch-count").value = shown.length === all.length ? batchCount(all.length) : `${whole(shown.length)} of ${batchCount(all.length)}`;
      const head = make("tr", {}, ...BATCH_HEADS.map((text, i) => make("th", { scope: "col", class: i === 6 ? "words" : "", textContent: text })));
      $("batches").replaceChildren(make("caption", { textContent: "Batches" }), make("thead", {}, head), make("tbody", {}, ...shown.map(batchRow)));
    } catch (error) {
      $("batch-count").value = error.message;
    }
  }

  function batchRow(batch) {
    const only = (more) => {
      view = { ...emptyView(), chosen: { ...noneChosen(), batch: new Set([batch.batch_id]), ...more } };
      update();
    };
    const link = (text, more, kind) => make("button", { type: "button", class: `link ${kind ?? ""}`, textContent: text, onclick: () => only(more) });
    const isFinished = batch.state === "finished";
    const name = make("bdi", { textContent: plain(batch.batch_id) });
    const numbers = ["degraded", "failed"].map((status) => {
      const number = batch.statuses?.[status];
      const box = cell("");
      if (number) box.append(link(whole(number), { status: new Set([status]) }, status));
      else box.textContent = number === 0 ? "0" : "\u2013";
      return box;
    });
    const stale = make("td", { class: "words" }, ...batch.stale.map(({ message }) => make("div", { textContent: plain(message) })));
    if (batch.stale.length) stale.append(make("small", {}, "run: ", make("code", { textContent: `curation-features process ${plain(batch.batch_id)}` })));
    const first = make("th", { scope: "row" }, isFinished ? make("button", { type: "button", class: "link", onclick: () => only({}) }, name) : name, isFinished ? null : make("small", { textContent: batch.state }));
    const when = batch.finished ? new Date(batch.finished).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }) : "\u2013";
    const cells = [cell(batch.photos === null ? "\u2013" : whole(batch.photos)), ...numbers, cell(when), cell(sizeOf(batch.bytes)), stale];
    cells.forEach((box, i) => (box.dataset.title = BATCH_HEADS[i + 1]));
    return make("tr", {}, first, ...cells);
  }

  function sizeOf(bytes) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let number = bytes;
    while (number >= 1000 && units.length > 1) [number] = [number / 1000, units.shift()];
    return `${number < 10 && units[0] !== "B" ? number.toFixed(1) : Math.round(number)} ${units[0]}`;
  }

  // ---- groups ---------------------------------------------------------------------------------------------------

  let groupKind = "";
  let shownGroups = null; // the kind that is shown, and how many

  async function showGroups(more = false) {
    if (!more && shownGroups?.kind === groupKind) return;
    const start = more ? shownGroups.number : 0;
    shownGroups = { kind: groupKind, number: start + GROUPS };
    if (!more) $("group-count").value = "reading\u2026";
    try {
      const found = await ask("groups", new URLSearchParams({ kind: groupKind, start, count: GROUPS }));
      if (shownGroups?.kind !== groupKind) return;
      const rows = found.groups.map(groupRow);
      if (more) $("groups").append(...rows);
      else $("groups").replaceChildren(...rows);
      $("group-count").value = count(found.count, "group");
      $("more-groups").hidden = start + GROUPS >= found.count;
      if (!found.count) $("groups").replaceChildren(make("p", { class: "notice", textContent: "No groups of this kind. Photos of all batches are grouped with: curation-features groups" }));
    } catch (error) {
      shownGroups = null;
      $("group-count").value = error.message;
    }
  }

  function groupRow({ kind, what, similarity, size, photos }) {
    const title = { copy: `${whole(size)} copies of one picture`, burst: `Burst of ${whole(size)}`, set: `Set of ${whole(size)}` }[kind] ?? plain(kind);
    const batches = new Set(photos.map((photo) => photo.batch));
    const facts = [what && plain(what), `any two at least ${percent(similarity)} alike`, batches.size > 1 ? `in ${batchCount(batches.size)}` : plain(photos[0]?.batch ?? ""), photos[0]?.taken?.slice(0, 16)];
    const members = photos.map((photo, i) => memberOf(photo, false, () => openDetail(i, photos)));
    if (size > photos.length) members.push(make("span", { class: "muted", textContent: `and ${whole(size - photos.length)} more` }));
    return make("section", { class: "of-photos" }, make("h2", {}, title, " ", make("small", { textContent: facts.filter(Boolean).join(" \u00b7 ") })), make("div", { class: "members" }, ...members));
  }

  function memberOf(photo, isCurrent, onclick) {
    const rank = !photo.group || photo.group.kind === "set" ? "" : whole(photo.group.rank);
    const title = photo.group ? `${plain(photo.name)}: ${groupWords(photo)}` : plain(photo.name);
    return make("button", { type: "button", class: "member", title, "aria-label": title, "aria-current": isCurrent, onclick }, pictureOf(photo), make("span", { class: "rank", textContent: rank }));
  }

  // ---- details --------------------------------------------------------------------------------------------------

  let browsed = null; // what the keys step through: { at: (index) -> photo, index, isList, total }
  let detailed = null; // the photo that is shown
  let looking = 0;

  /** Show the photo at a place of the list, or of `photos`. */
  function openDetail(index, photos = null) {
    const at = photos ? (i) => photos[i] : (i) => list.photos.get(i);
    if (!at(index)) return;
    browsed = { at, index, isList: !photos, total: photos ? photos.length : list.total };
    showDetail(at(index));
    if (!$("detail").open) $("detail").showModal();
  }

  async function go(step) {
    const goal = browsed.index + step;
    if (goal < 0 || goal >= browsed.total) return;
    if (browsed.isList) {
      if (!browsed.at(goal)) await load(list, goal);
      const waits = performance.now() + 3000;
      while (!browsed.at(goal) && performance.now() < waits) await new Promise((done) => setTimeout(done, 50));
    }
    if (!browsed.at(goal)) return;
    browsed.index = goal;
    if (browsed.isList) active = goal;
    showDetail(browsed.at(goal));
    if (document.activeElement?.disabled) $("detail-body").focus();
  }

  async function showDetail(photo) {
    detailed = photo;
    looking += 1;
    const mine = looking;
    $("detail").classList.remove("zoomed");
    $("zoom").setAttribute("aria-pressed", false);
    $("zoom").disabled = $("like").disabled = !photo.sha256;
    $("detail-name").textContent = plain(photo.name);
    $("detail-place").textContent = `${whole(browsed.index + 1)} of ${whole(browsed.total)}`;
    $("previous").disabled = browsed.index === 0;
    $("next").disabled = browsed.index >= browsed.total - 1;
    const side = make("div", { class: "numbers" }, make("p", { class: "muted", textContent: "loading\u2026" }));
    const figure = figureOf(photo);
    $("detail-body").replaceChildren(figure, side);
    $("detail-body").scrollTop = 0;
    try {
      const found = await ask("photo", keysOf(photo));
      if (mine !== looking) return;
      side.replaceChildren(...numbersOf(found));
      figure.querySelector(".frame").append(...[placeFrame(found)].filter(Boolean));
      figure.append(factsOf(found));
    } catch (error) {
      if (mine === looking) side.replaceChildren(make("p", { class: "why", textContent: error.message }));
    }
  }

  /** The picture: the thumbnail at once, then the original, or else the analysed image, with the reason. */
  function figureOf(photo) {
    if (!photo.sha256) return make("figure", {}, make("div", { class: "frame" }, make("span", { class: "muted", textContent: "no picture" })));
    const small = make("img", { class: "small", alt: "", src: thumbnailOf(photo) });
    const large = make("img", { class: "large", alt: plain(photo.name), hidden: true });
    const wait = make("span", { class: "wait", textContent: "loading the original\u2026" });
    const said = make("figcaption", {}, make("p", {}, make("a", { href: fullOf(photo, "original"), target: "_blank", rel: "noopener", textContent: "Open the original in a new tab" })));
    const frame = make("div", { class: "frame" }, small, large, wait);
    const reasons = new Set(); // of the original and of the analysed image
    const done = () => {
      large.hidden = false;
      small.remove();
      wait.remove();
    };
    large.addEventListener("load", done);
    large.addEventListener("error", async () => {
      const address = large.getAttribute("src");
      reasons.add(await reasonOf(address));
      const isOriginal = address === fullOf(photo, "original");
      said.replaceChildren(make("p", { class: "why", textContent: `The original cannot be shown: ${[...reasons].join("; ")}. This is ${isOriginal ? "the analysed image" : "its thumbnail"}.` }));
      if (isOriginal) large.src = fullOf(photo, "analysed");
      else wait.remove();
    });
    large.src = fullOf(photo, "original");
    frame.addEventListener("click", (event) => zoom(event));
    return make("figure", {}, frame, said);
  }

  async function reasonOf(address) {
    try {
      const answer = await fetch(address);
      return answer.ok ? "the browser cannot show it" : plain((await answer.json()).error.message);
    } catch {
      return "the server does not answer";
    }
  }

  /** Show the picture at full size, at the place of a click, or the whole of it again. */
  function zoom(event) {
    const large = $("detail-body").querySelector(".large:not([hidden])");
    if (!large) return;
    const frame = large.parentElement;
    const { left, top, width, height } = large.getBoundingClientRect();
    const scale = Math.min(width / large.naturalWidth, height / large.naturalHeight);
    const [x, y] = event?.clientX ? [event.clientX - left - (width - large.naturalWidth * scale) / 2, event.clientY - top - (height - large.naturalHeight * scale) / 2].map((at) => at / scale) : [large.naturalWidth / 2, large.naturalHeight / 2];
    const isZoomed = $("detail").classList.toggle("zoomed");
    $("zoom").setAttribute("aria-pressed", isZoomed);
    if (isZoomed) frame.scrollTo(x - frame.clientWidth / 2, y - frame.clientHeight / 2);
  }

  function placeFrame(photo) {
    if (!photo.focus || !photo.width) return null;
    const least = Math.max(photo.width, photo.height) / 16;
    const [x, y, w, h] = photo.focus.map((share, i) => share * [photo.width, photo.height][i % 2]);
    const [wide, high] = [Math.max(w, least), Math.max(h, least)];
    const box = { x: x + (w - wide) / 2, y: y + (h - high) / 2, width: wide, height: high };
    return svg("svg", { viewBox: `0 0 ${photo.width} ${photo.height}`, class: "sharpest", "aria-hidden": "true" }, svg("rect", { ...box, class: "under" }), svg("rect", box));
  }

  function factsOf(photo) {
    const size = photo.width && photo.height ? `${whole(photo.width)} \u00d7 ${whole(photo.height)} px` : null;
    return factList([["Path", photo.path], ["Batch", photo.batch], ["Status", photo.status], ...photo.facts, ["Analysed at", [size, photo.format].filter(Boolean).join(", ")], ["Id", photo.id]]);
  }

  function numbersOf(photo) {
    const group = photo.group ? [make("section", { class: "of-group" }, make("h3", { textContent: photo.group.kind === "copy" ? "Copies" : photo.group.kind === "set" ? "Set" : "Burst" }), make("p", {}, make("bdi", { textContent: `${groupWords(photo)}.` })), make("div", { class: "members" }, ...photo.members.map((one) => memberOf(one, one.position === photo.position && one.batch === photo.batch, () => showDetail(one)))))] : [];
    const errors = photo.errors.map(([stage, reason, message]) => make("li", {}, make("strong", { textContent: reasonTitle(`${stage}: ${reason}`) }), make("br"), make("bdi", { class: "muted", textContent: plain(message) })));
    const missing = errors.length ? [make("h3", { textContent: "Not measured" }), make("ul", { class: "errors" }, ...errors)] : [];
    const score = ({ name, best, description }, i) => {
      const value = photo.scores[i];
      const title = make("th", { scope: "row", title: plain(description) }, words(name), make("small", { textContent: ` ${best} is best` }));
      return value === null ? make("tr", {}, title, cell("not measured", { class: "muted" })) : make("tr", { class: "measured", "--share": value }, title, cell(value.toFixed(3)));
    };
    const raw = (one) => make("tr", { class: "raw" }, make("th", { scope: "row", title: plain(one.description), textContent: words(one.name) }), cell(`${precise(photo.raw[one.name])}${one.unit ? ` ${plain(one.unit)}` : ""}`));
    const scores = about.metrics.flatMap((metric, i) => [score(metric, i), ...metric.raw.filter(({ name }) => name in photo.raw).map(raw)]);
    const known = about.signals.map((name, i) => [name, photo.signals[i] ?? null]).filter(([name, value]) => value !== null && SIGNALS[name]);
    const signals = known.length ? [make("div", {}, make("h3", { textContent: "Signals" }), make("ul", { class: "flags" }, ...known.map(([name, value]) => make("li", { textContent: SIGNALS[name][1](value) }))))] : [];
    return [...group, ...missing, ...flagsOf(photo), labelTable(photo), table("Scores", ["score", "0 to 1"], scores), ...signals];
  }

  function listenToDetail() {
    const detail = $("detail");
    $("previous").addEventListener("click", () => go(-1));
    $("next").addEventListener("click", () => go(1));
    $("zoom").addEventListener("click", () => zoom());
    $("like").addEventListener("click", () => similarTo(detailed));
    detail.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (detail.classList.contains("zoomed") && event.key.startsWith("Arrow")) return;
      if (event.key === "ArrowLeft") go(-1);
      else if (event.key === "ArrowRight") go(1);
      else if (event.key === "z") zoom();
      else if (event.key === "s") similarTo(detailed);
      else return;
      event.preventDefault();
    });
    detail.addEventListener("close", () => {
      looking += 1;
      $("detail-body").replaceChildren(); // stops loading
      if (browsed?.isList && view.tab === "photos") focusOn(active);
    });
  }

  // -------------------------------------------------------------------------------------------------------------

  function listen() {
    const on = (id, event, action) => $(id).addEventListener(event, action);
    on("ask", "submit", (event) => {
      event.preventDefault();
      [view.text, view.where] = [$("text").value, $("where").value];
      if (view.text.trim()) view.like = null;
      changed();
    });
    let typing = 0;
    on("name", "input", () => (clearTimeout(typing), (typing = setTimeout(() => ((view.name = $("name").value), (view.page = 0), update({ push: false })), 250))));
    for (const id of ["text", "where"]) on(id, "search", () => $(id).value || ((view[id] = ""), changed())); // the button that clears it
    on("sort", "change", () => ((view.order = $("sort").value), (view.turned = false), changed()));
    on("direction", "change", () => ((view.turned = $("direction").value === "1"), changed()));
    on("best", "change", () => ((view.best = $("best").checked), changed()));
    on("clear-filters", "click", clearFilters);
    on("all-labels", "click", () => ((allLabels = !allLabels), showCloud()));
    on("page-before", "click", () => (view.page--, update()));
    on("page-after", "click", () => (view.page++, update()));
    on("page", "change", () => ((view.page = Number($("page").value)), update()));
    on("batch-kind", "change", (event) => ((batchKind = event.target.value), showBatches()));
    on("group-kind", "change", (event) => ((groupKind = event.target.value), showGroups()));
    on("more-groups", "click", () => showGroups(true));
    on("open-help", "click", () => $("help").showModal());
    on("toggle-filters", "click", () => $("toggle-filters").setAttribute("aria-expanded", document.body.classList.toggle("filtering")));
    on("months", "keydown", (event) => {
      const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
      event.target[step]?.focus();
    });
    for (const link of document.querySelectorAll("nav [data-view]"))
      link.addEventListener("click", (event) => (event.preventDefault(), (view.tab = link.dataset.view), update()));
    makeClosable();
    redraw(draw);
    grid.addEventListener("keydown", pressedInGrid);
    grid.addEventListener("click", clickedInGrid);
    for (const event of ["popstate", "hashchange"])
      window.addEventListener(event, () => {
        document.querySelector("dialog[open]")?.close();
        view = viewFrom(location.hash);
        update({ push: false });
      });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
      if (event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
      if (event.key === "?") $("help").showModal();
      else if (event.key === "/") ((view.tab = "photos"), showTab(), $("text").focus());
      else return;
      event.preventDefault();
    });
    document.addEventListener("visibilitychange", lookForChanges);
    setInterval(lookForChanges, 60_000);
    listenToDetail();
  }

  async function begin() {
    view = viewFrom(location.hash);
    listen();
    try {
      about = await ask("about");
    } catch (error) {
      return tell(error.message), showTab();
    }
    for (const [key, [title]] of Object.entries(ORDERS)) $("sort").append(new Option(title, key));
    $("columns-table").append(...Object.entries(about.columns).flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })]));
    update({ push: false });
    document.documentElement.dataset.ready = performance.now();
    setTimeout(() => (loadBatches().catch(() => {}), lookForChanges()), 1500);
  }

  begin();
})();
