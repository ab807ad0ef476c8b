"use strict";
(() => {
  // ---- data ---------------------------------------------------------------------------------------------------

  const $ = (id) => document.getElementById(id);
  const sheet = JSON.parse($("sheet").textContent);
  const photos = JSON.parse($("photos").textContent);
  const metrics = sheet.metrics;

  const BINS = 32;
  const STATUSES = ["failed", "degraded", "ok"];
  const {
    KINDS, SIGNALS, UNSEEN,
    cell, count, facet, factList, flagBadges, flagsOf, groupWords, kindOf, labelLines, labelTable, make, makeClosable, percent,
    pixels, place, plain, precise, redraw, smallScore, svg, table, two, whole, words,
  } = PARTS;
  const UNPRINTABLE = new RegExp(`${UNSEEN.source}|\\p{Cs}`, "u"); // also bytes that are not UTF-8

  const folded = (text) => text.normalize("NFC").toLowerCase(); // macOS decomposes accents
  const reasonWords = (reason) => sheet.reasons[reason] ?? words(reason);

  const signalOf = (photo, name) => photo.signals[sheet.signals.indexOf(name)] ?? null;

  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const KEY_LENGTH = 8;

  /** A 48-bit hash of a text, mixed like cyrb53, in characters that a URL does not escape. */
  function keyOf(text) {
    let [a, b] = [0xdeadbeef, 0x41c6ce57];
    for (let i = 0; i < text.length; i++) {
      a = Math.imul(a ^ text.charCodeAt(i), 2654435761);
      b = Math.imul(b ^ text.charCodeAt(i), 1597334677);
    }
    const mixed = (x, y) => Math.imul(x ^ (x >>> 16), 2246822507) ^ Math.imul(y ^ (y >>> 13), 3266489909);
    const halves = [mixed(a, b), mixed(b, a)];
    return Array.from({ length: KEY_LENGTH }, (_, i) => LETTERS[(halves[i & 1] >>> (3 * (i & ~1))) & 63]).join("");
  }

  const withId = Map.groupBy(photos, ({ id }) => id);
  const isSame = (photo, other) => photo.id === other.id && photo.path === other.path;

  /**
   * The key of a photo's mark: the hash of its id, so that every run gives the same. Files of equal bytes share an id; their
   * paths tell them apart, in any order. A photo that is in the batch several times has one mark.
   */
  function keyInBatch(photo) {
    const isAlone = withId.get(photo.id).every((other) => isSame(photo, other));
    return keyOf(isAlone ? photo.id : `${photo.id}\n${photo.path}`);
  }

  photos.forEach((photo, number) => {
    photo.number = number;
    photo.key = keyInBatch(photo);
    photo.folder = photo.path.slice(0, Math.max(0, photo.path.lastIndexOf("/")));
    photo.folded = folded(`${photo.path} ${photo.name}`);
    const { Camera = null, Lens = null } = Object.fromEntries(photo.facts);
    Object.assign(photo, { camera: Camera, lens: Lens, day: photo.taken && photo.taken.slice(0, 10) });
    photo.reasons = photo.errors.map(([stage, reason]) => JSON.stringify([stage, reason]));
    photo.flagged = [...photo.flags, ...photo.hints].map(([name]) => name);
    if (photo.signals.length && !photo.flags.length) photo.flagged.push(""); // measured, and without a flag
  });

  const groups = new Map(); // by id: the photos, the best first
  for (const photo of photos) {
    photo.group ??= null;
    if (photo.group) groups.set(photo.group.id, [...(groups.get(photo.group.id) ?? []), photo]);
  }
  const inGroup = ({ group, position }) => [group.copy_of === null ? 0 : 1, group.rank, position];
  const byRank = (a, b) => inGroup(a).map((value, i) => value - inGroup(b)[i]).find(Boolean) ?? 0;
  for (const members of groups.values()) members.sort(byRank);
  const groupOf = (photo) => (photo.group ? groups.get(photo.group.id) : []);

  // An error of every readable photo is shown once, and not as a problem of each photo.
  const readable = photos.filter(({ status }) => status !== "failed");
  const shared = (readable.length > 1 ? readable[0].reasons : []).filter((reason) => readable.every(({ reasons }) => reasons.includes(reason)));
  for (const photo of photos) {
    photo.problems = photo.errors.filter((_, i) => !shared.includes(photo.reasons[i]));
    photo.state = photo.errors.length && !photo.problems.length ? "ok" : photo.status; // errors of all photos do not count
  }
  const known = (valueOf) => photos.some((photo) => valueOf(photo) !== null);
  const measured = metrics.map((_, i) => known((photo) => photo.scores[i]));
  const signals = sheet.signals.filter((name) => known((photo) => signalOf(photo, name)));

  // ---- orders -------------------------------------------------------------------------------------------------

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  /** Ranks photos by a text; null for a photo without it. */
  function ranked(textOf) {
    const texts = [...new Set(photos.map(textOf))].filter((text) => text !== null).sort(collator.compare);
    const places = new Map(texts.map((text, place) => [text, place]));
    return (photo) => places.get(textOf(photo)) ?? null;
  }

  const AZ = ["A to Z", "Z to A"];
  const BEST = ["best first", "worst first"];
  const SOFT = ["softest first", "sharpest first"];
  /** By key: title, value to sort by (null is last in both directions), whether the first direction descends, directions. */
  const ORDERS = new Map([
    ...(sheet.search ? [["match", ["match", (photo) => photo.position, false, ["best first", "worst first"]]]] : []),
    ["problems", ["problems", (photo) => STATUSES.indexOf(photo.state), false, ["first", "last"]]],
    ["taken", ["capture time", ranked((photo) => photo.taken), false, ["earliest first", "latest first"]]],
    ...metrics.map(({ name, best }, i) => [name, [words(name), (photo) => photo.scores[i], best === 1, BEST]]),
    ["tenengrad", ["sharpness (tenengrad)", (photo) => photo.raw.tenengrad ?? null, true, BEST]],
    ["blur_px", ["blur (edges at 512 px)", (photo) => signalOf(photo, "blur_px"), true, SOFT]],
    ["focus_px", ["focus (edges in the original)", (photo) => signalOf(photo, "focus_px"), true, SOFT]],
    ["confidence", ["confidence", (photo) => photo.labels[0]?.[1] ?? null, true, ["surest first", "least sure first"]]],
    ["margin", ["lead of the first label", (photo) => photo.margin, true, ["largest first", "smallest first"]]],
    ["folder", ["folder", ranked((photo) => photo.folder || null), false, AZ]],
    ["name", ["name", ranked((photo) => photo.name), false, AZ]],
    ["camera", ["camera", ranked((photo) => photo.camera), false, AZ]],
    ["lens", ["lens", ranked((photo) => photo.lens), false, AZ]],
    ["iso", ["ISO", (photo) => photo.iso, false, ["lowest first", "highest first"]]],
    ...(sheet.search ? [] : [["position", ["place in the batch", (photo) => photo.position, false, ["first to last", "last to first"]]]]),
  ].filter(([, [, value]]) => !photos.length || known(value)));

  function inOrder(key, turned) {
    const [, value, descends] = ORDERS.get(key);
    const sign = descends === turned ? 1 : -1;
    return [...photos].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.position - b.position;
      return (x - y) * sign || a.position - b.position;
    });
  }

  // ---- the view: the current selection, and its form in the address -----------------------------------------------

  const DEFAULT_ORDER = sheet.search ? "match" : "problems";
  /** Filters by value: the values of a photo, and the text of a value. */
  const ORIGINS = { day: "day", folder: "folder", camera: "camera", lens: "lens", iso: "ISO" };
  const FACETS = {
    status: [(photo) => [photo.status], plain],
    flag: [(photo) => photo.flagged, (name) => plain(name) || "no flag"],
    group: [(photo) => [photo.group?.kind ?? ""], (kind) => KINDS[kind]?.[1] ?? (plain(kind) || "in no group")],
    decision: [(photo) => [decisionOf(photo)], (name) => plain(name) || "undecided"],
    reason: [(photo) => photo.reasons, errorWords],
    ...Object.fromEntries(Object.keys(ORIGINS).map((name) => [name, [(photo) => [String(photo[name] ?? "")], (value) => originWords(name, value)]])),
    label: [(photo) => labelsInScope(photo).filter(([, confidence]) => confidence >= view.confidence).map(([label]) => label), plain],
  };
  const originWords = (name, value) => plain(value) || (name === "folder" ? "(top folder)" : "not known");
  let view;

  const emptyView = () => ({
    order: DEFAULT_ORDER,
    turned: false,
    text: "",
    chosen: Object.fromEntries(Object.keys(FACETS).map((name) => [name, new Set()])),
    any: false,
    confidence: 0,
    onlyMarked: false,
    stacks: true,
    ranges: metrics.map(() => null),
  });

  function viewFrom(fragment) {
    const given = new URLSearchParams(fragment.replace(/^#/, ""));
    const found = emptyView();
    if (ORDERS.has(given.get("sort"))) found.order = given.get("sort");
    found.turned = given.get("turned") === "1";
    found.text = given.get("text") ?? "";
    for (const name in FACETS) found.chosen[name] = new Set(given.getAll(name));
    found.chosen.status = new Set(given.getAll("status").filter((status) => STATUSES.includes(status)));
    found.any = given.get("labels") === "any";
    found.confidence = within(Number(given.get("confidence")) || 0);
    found.onlyMarked = given.get("only") === "marked";
    found.stacks = given.get("stacks") !== "0";
    for (const text of given.getAll("range")) {
      const [, name, low, high] = /^(\w+):([\d.]+)-([\d.]+)$/.exec(text) ?? [];
      const i = metrics.findIndex((metric) => metric.name === name);
      if (i >= 0 && Number(low) <= Number(high)) found.ranges[i] = [within(Number(low)), within(Number(high))];
    }
    return [found, given.get("marks")];
  }

  function fragmentOf(view) {
    const given = new URLSearchParams();
    if (view.order !== DEFAULT_ORDER) given.set("sort", view.order);
    if (view.turned) given.set("turned", "1");
    if (view.text) given.set("text", view.text);
    for (const name in FACETS) for (const value of view.chosen[name]) given.append(name, value);
    if (view.any) given.set("labels", "any");
    if (view.confidence) given.set("confidence", view.confidence);
    if (view.onlyMarked) given.set("only", "marked");
    if (!view.stacks) given.set("stacks", "0");
    view.ranges.forEach((range, i) => range && given.append("range", `${metrics[i].name}:${range.join("-")}`));
    const written = writtenMarks();
    if (written) given.set("marks", written);
    return given.toString();
  }

  const within = (number) => Math.min(1, Math.max(0, number));

  let writing = 0;
  function writeFragment() {
    clearTimeout(writing); // browsers limit the rate of `replaceState`
    writing = setTimeout(() => {
      const fragment = fragmentOf(view);
      if (fragment !== location.hash.slice(1)) history.replaceState(null, "", `#${fragment}`);
    }, 150);
  }

  // ---- marks: stored in the browser and in the address, with undo ---------------------------------------------------

  /*
   * The browser stores the marks of a batch and the steps that led to them. Each change reads them first and writes them
   * at once, so that all pages of a batch share them. The marks of an address replace them, as a step that can be undone.
   * Marks that were stored before do not: the address is old, and the stored marks are newer.
   * Decisions, to keep or to reject a photo, are stored in the same way, and are not in the address.
   */
  const KEPT = `curation-features marks ${sheet.batch_id}`;
  const STEPS_KEPT = 100;
  const STEPS_LENGTH = 300_000; // characters; browsers keep some five million of all pages together
  const SEEN_KEPT = 1000;
  let marks = new Set(); // keys, also of photos that are not on this page
  let decisions = new Map(); // key -> "k" (keep) or "r" (reject)
  let steps = []; // each: the keys that it marked, those that it unmarked, and keys with their decisions before and after
  let undone = [];
  let seen = []; // hashes of all marks that were stored before, as an address writes them
  let keeps = true; // whether the browser can store marks

  const isMarked = (photo) => marks.has(photo.key);
  const marked = () => photos.filter(isMarked);
  const writtenMarks = () => marked().map(({ key }) => key).join("");
  const DECISIONS = { k: "keep", r: "reject" };
  const decisionOf = (photo) => DECISIONS[decisions.get(photo.key)] ?? "";
  const decided = (letter) => photos.filter(({ key }) => decisions.get(key) === letter);
  const piecesIn = (text, pattern, length) =>
    new RegExp(`^(${pattern})*$`).test(text) ? (text.match(new RegExp(`.{${length}}`, "g")) ?? []) : [];
  const keysIn = (text) => (/^([\w-]{8})*$/.test(text) ? (text.match(/.{8}/g) ?? []) : []);

  /** Read the stored marks and steps. */
  function readKept() {
    let text = null;
    try {
      text = localStorage.getItem(KEPT);
    } catch {
      keeps = false;
    }
    if (text === null || !keeps) return;
    try {
      const kept = JSON.parse(text);
      const changesIn = (text) => piecesIn(text, "[\\w-]{8}[kr-]{2}", KEY_LENGTH + 2);
      const read = (list) => list.map(([on, off, changed = ""]) => [keysIn(on), keysIn(off), changesIn(changed)]);
      const pairs = piecesIn(kept.decisions ?? "", "[\\w-]{8}[kr]", KEY_LENGTH + 1);
      decisions = new Map(pairs.map((pair) => [pair.slice(0, KEY_LENGTH), pair[KEY_LENGTH]]));
      [marks, steps, undone, seen] = [new Set(keysIn(kept.marks)), read(kept.steps), read(kept.undone), keysIn(kept.seen)];
    } catch {
      // not written by this page
    }
  }

  function writeKept(address = writtenMarks()) {
    const written = (list) => list.map((step) => step.map((keys) => keys.join("")));
    seen = [...new Set([...seen, keyOf(address)])].slice(-SEEN_KEPT);
    while (steps.length > STEPS_KEPT || (steps.length > 1 && steps.flat(2).length * KEY_LENGTH > STEPS_LENGTH)) steps.shift();
    try {
      localStorage.setItem(KEPT, JSON.stringify({ marks: [...marks].join(""), decisions: [...decisions].flat().join(""), steps: written(steps), undone: written(undone), seen: seen.join("") }));
      keeps = true;
    } catch {
      keeps = false;
    }
  }

  function apply([on, off, changed]) {
    for (const key of on) marks.add(key);
    for (const key of off) marks.delete(key);
    for (const change of changed) {
      const [key, after] = [change.slice(0, KEY_LENGTH), change[KEY_LENGTH + 1]];
      if (after === "-") decisions.delete(key);
      else decisions.set(key, after);
    }
  }

  const reversed = ([on, off, changed]) => [off, on, changed.map((change) => change.slice(0, KEY_LENGTH) + change[KEY_LENGTH + 1] + change[KEY_LENGTH])];

  function saidOf([on, off, changed]) {
    const to = (letter) => changed.filter((change) => change.endsWith(letter));
    const words = [[on, "marked"], [off, "unmarked"], [to("k"), "kept"], [to("r"), "rejected"], [to("-"), "undecided"]];
    const parts = words.filter(([keys]) => keys.length);
    return parts.map(([keys, word]) => `${count(keys.length)} ${word}`).join(", ");
  }

  /** Mark and unmark photos, and decide on photos ("k", "r" or "-"), in one step. */
  function change(on, off = [], decide = []) {
    readKept();
    const keys = (some, are) => some.filter((photo) => isMarked(photo) === are).map(({ key }) => key);
    const now = ({ key }) => decisions.get(key) ?? "-";
    const changed = decide.filter(([photo, letter]) => now(photo) !== letter).map(([photo, letter]) => photo.key + now(photo) + letter);
    const step = [keys(on, false), keys(off, true), changed];
    if (step.flat().length) {
      apply(step);
      steps.push(step);
      undone = [];
      writeKept();
    }
    if (step.flat().length > 1 || (!keeps && changed.length)) tell(`${saidOf(step)}.`, "Undo", undo);
    else tell("");
    marksChanged();
  }

  const keysHere = new Set(photos.map(({ key }) => key));
  /** The index of the last step with a photo of this page; a batch of another project may have the same id. */
  const lastOf = (list) => list.findLastIndex((step) => step.flat().some((key) => keysHere.has(key.slice(0, KEY_LENGTH))));

  function undo() {
    readKept();
    again(steps, undone, "Undone", reversed);
  }

  function redo() {
    readKept();
    again(undone, steps, "Redone", (step) => step);
  }

  function again(from, to, word, turn) {
    const last = lastOf(from);
    if (last < 0) return;
    const [step] = from.splice(last, 1);
    to.push(step);
    apply(turn(step));
    writeKept();
    tell(`${word}: ${saidOf(turn(step))}.`);
    marksChanged();
  }

  /** Decide on a photo, or withdraw the same decision. */
  function decideOn(photo, letter) {
    change([], [], [[photo, decisions.get(photo.key) === letter ? "-" : letter]]);
  }

  /** Keep a photo and reject the rest of its burst or its copies. Nothing of a set is rejected. */
  function keepOnly(photo) {
    if (!photo.group) return tell("This photo is in no group. K keeps it, X rejects it.");
    if (photo.group.kind === "set") return tell(`A set is kept whole (${kindOf(photo.group)}): nothing was rejected.`);
    change([], [], groupOf(photo).map((one) => [one, isSame(one, photo) ? "k" : "r"]));
  }

  /** Replace the marks by those of an address, unless these were stored before. An address of other photos is ignored. */
  function takeMarks(written, isWanted = false) {
    const keys = new Set(keysIn(written));
    const named = photos.filter(({ key }) => keys.has(key));
    const others = marked().filter(({ key }) => !keys.has(key));
    if (!named.length || (!others.length && named.every(isMarked))) return;
    const number = count(named.length, "mark");
    if (seen.includes(keyOf(written)) && !isWanted) {
      const text = `The address has ${number} from an earlier state. The stored marks are newer.`;
      return tell(text, "Use the earlier marks", () => takeMarks(written, true));
    }
    change(named, others);
    writeKept(written);
    tell(others.length ? `The address replaced the stored marks by ${number}.` : "", "Undo", undo);
  }

  /** Show a message about the marks, with an action, until their next change or until it is closed. */
  function tell(text, title = "", action = null) {
    const refused = keeps ? "" : " This browser cannot store marks: they are only in the address. Save them to a file (List).";
    $("told").value = text || (!keeps && steps.length === 1) ? `${text}${refused}`.trim() : "";
    $("toast").hidden = !$("told").value;
    $("toast-action").hidden = !action;
    $("toast-action").textContent = title;
    $("toast-action").onclick = action;
  }

  // ---- filters ------------------------------------------------------------------------------------------------

  const FILTERS = ["text", "score", "mark", ...Object.keys(FACETS)];
  const BIT = Object.fromEntries(FILTERS.map((name, i) => [name, 1 << i]));

  const labelsInScope = (photo) => (view.any ? photo.labels : photo.labels.slice(0, 1));

  /** Confidence of the best chosen label of a photo, or else of its first label; null without labels. */
  function confidenceOf(photo) {
    const { label: chosen } = view.chosen;
    const label = chosen.size ? labelsInScope(photo).find(([name]) => chosen.has(name)) : photo.labels[0];
    return label ? label[1] : null;
  }

  /** The filters that exclude a photo, as bits. */
  function failing(photo, parts) {
    let bits = 0;
    if (!parts.every((part) => photo.folded.includes(part))) bits |= BIT.text;
    for (const [name, [valuesOf]] of Object.entries(FACETS)) {
      const chosen = view.chosen[name];
      if (name !== "label" && chosen.size && !valuesOf(photo).some((value) => chosen.has(value))) bits |= BIT[name];
    }
    if (view.chosen.label.size || view.confidence) {
      const confidence = confidenceOf(photo);
      if (confidence === null || confidence < view.confidence) bits |= BIT.label;
    }
    const isOut = (range, i) => range && (photo.scores[i] === null || photo.scores[i] < range[0] || photo.scores[i] > range[1]);
    if (view.ranges.some(isOut)) bits |= BIT.score;
    if (view.onlyMarked && !isMarked(photo)) bits |= BIT.mark;
    return bits;
  }

  let passing = photos; // photos that pass the filters, in order
  let shown = photos; // of these, those with a card: of a closed stack only the best
  let closed = new Map(); // the photo on top of each closed stack -> its photos
  const opened = new Set(); // ids of groups whose stacks are open

  /** Replace the photos of each group by the best one, or gather them behind it if the stack is open. */
  function stacked(list) {
    const here = new Set(list);
    closed = new Map();
    return list.flatMap((photo) => {
      const members = groupOf(photo).filter((one) => here.has(one));
      if (members.length < 2) return [photo];
      if (photo !== members[0]) return [];
      if (opened.has(photo.group.id)) return members;
      closed.set(photo, members);
      return [photo];
    });
  }

  /** Open or close the stack of a photo, and focus on it. */
  function toggleStack(photo) {
    if (!photo.group || !view.stacks) return;
    if (!opened.delete(photo.group.id)) opened.add(photo.group.id);
    update({ toTop: false });
    focusOn(placeOf(photo));
  }

  /** The place of a photo's card, or of the stack that it is in. */
  function placeOf(photo) {
    const place = shown.indexOf(photo);
    return place >= 0 ? place : shown.findIndex((one) => closed.get(one)?.includes(photo));
  }

  /** Filter, sort and show everything, after each change of the view. */
  function update({ toTop = true } = {}) {
    const kept = shown[active];
    const parts = folded(view.text).split(/\s+/).filter(Boolean);
    const bits = photos.map((photo) => failing(photo, parts));
    passing = inOrder(view.order, view.turned).filter((photo) => bits[photo.number] === 0);
    closed.clear();
    shown = view.stacks ? stacked(passing) : passing;
    active = Math.max(0, toTop ? 0 : placeOf(kept));
    anchor = active;
    showControls();
    showFacets(bits);
    showHistograms();
    if (toTop && window.scrollY > topOfGrid()) window.scrollTo(0, 0);
    draw();
    writeFragment();
  }

  function isFiltered() {
    const { text, chosen, confidence, onlyMarked, ranges } = view;
    return Boolean(text || confidence || onlyMarked || ranges.some(Boolean) || Object.values(chosen).some(({ size }) => size));
  }

  function clearFilters() {
    view = { ...emptyView(), order: view.order, turned: view.turned, any: view.any, stacks: view.stacks };
    update();
  }

  function toggle(set, value) {
    if (!set.delete(value)) set.add(value);
    update();
  }

  // ---- controls -----------------------------------------------------------------------------------------------

  function setUp() {
    $("batch").textContent = plain(sheet.batch_id);
    const parts = STATUSES.map((status) => [status, photos.filter(({ state }) => state === status).length]);
    const summary = parts.filter(([, number]) => number).map(([status, number]) => `${whole(number)} ${status === "ok" && shared.length ? "measured" : status}`);
    const flags = sheet.flags.map((name) => [name, photos.filter(({ flagged }) => flagged.includes(name)).length]);
    const flagged = flags.filter(([, number]) => number).map(([name, number]) => `${whole(number)} ${plain(name)}`);
    const kinds = [...groups.values()].map(([{ group }]) => group.kind);
    const found = Object.entries(KINDS).map(([kind, [one, , more]]) => [kinds.filter((other) => other === kind).length, one, more]);
    const grouped = found.filter(([number]) => number).map(([number, one, more]) => `${whole(number)} ${number === 1 ? one : more}`);
    const likely = sheet.search?.likely ?? null;
    const matching = likely === null ? "" : likely ? `${whole(likely)} likely` : "none clearly matches";
    const all = [matching, summary.join(", "), flagged.length && `flags: ${flagged.join(", ")}`, grouped.length && `groups: ${grouped.join(", ")}`].filter(Boolean);
    for (const id of ["groups-group", "stacks-label", "help-groups"]) $(id).hidden = !groups.size;
    $("summary").textContent = photos.length ? `${count(photos.length)}: ${all.join("; ")}` : "no photos";
    $("flags-group").hidden = $("help-flags").hidden = !signals.length;
    showShared();
    for (const [key, [title]] of ORDERS) $("sort").append(make("option", { value: key, textContent: title }));
    $("vocabulary-size").textContent = sheet.labels.length || "";
    $("digest").textContent = plain(sheet.digest).slice(0, 12);
    $("version-technical").textContent = plain(sheet.version.technical);
    $("version-clip").textContent = plain(sheet.version.clip);
    for (const { name, best, description } of metrics)
      $("help-scores").append(
        make("dt", { textContent: words(name) }),
        make("dd", { textContent: `${plain(description)} (${best} is best)` }),
      );
    const labelled = photos.some((photo) => photo.labels.length);
    document.body.classList.toggle("unlabelled", !labelled);
    $("no-labels").hidden = labelled || !photos.length;
    $("label-scope").hidden = !labelled;
    $("confidence").closest(".slider").hidden = !labelled;
    metrics.forEach((metric, i) => measured[i] && makeHistogram(metric, i));
    $("origins").append(...Object.entries(ORIGINS).map(([name, title]) => origin(name, title)));
    document.body.classList.toggle("empty", !photos.length);
  }

  /** Show the errors of all photos once, with the remedy. */
  function showShared() {
    const lines = reasonLines(shared.map((reason) => JSON.parse(reason)));
    const remedies = new Set(shared.map((reason) => sheet.remedies[JSON.parse(reason)[1]] ?? "See the details of a photo."));
    $("shared").hidden = !shared.length;
    const parts = `No photo has ${lines.join("; ")}. ${[...remedies].join(" ")}`.split("`");
    $("shared").replaceChildren(...parts.map((part, i) => (i % 2 ? make("code", { textContent: part }) : part)));
  }

  /** A list of values to choose from; none if all photos have the same. */
  function origin(name, title) {
    const values = new Set(photos.flatMap(FACETS[name][0]));
    const box = make("div", { id: `${name}-values`, class: "facets scrolls", role: "group", "aria-label": title });
    const summary = make("summary", {}, title[0].toUpperCase() + title.slice(1), " ", make("span", { class: "count", textContent: whole(values.size) }));
    return make("details", { id: `${name}-origin`, hidden: values.size < 2 }, summary, box);
  }

  function listenToControls() {
    const on = (id, event, action) => $(id).addEventListener(event, action);
    on("text", "input", () => ((view.text = $("text").value), update()));
    on("sort", "change", () => ((view.order = $("sort").value), (view.turned = false), update()));
    on("direction", "change", () => ((view.turned = $("direction").value === "1"), update()));
    on("confidence", "input", () => ((view.confidence = Number($("confidence").value)), update()));
    on("only-marked", "change", () => ((view.onlyMarked = $("only-marked").checked), update()));
    on("label-scope", "change", (event) => ((view.any = event.target.value === "any"), update()));
    on("clear-filters", "click", clearFilters);
    on("stacks", "change", () => ((view.stacks = $("stacks").checked), update({ toTop: false })));
    on("clear-decisions", "click", () => change([], [], photos.map((photo) => [photo, "-"])));
    on("mark-shown", "click", () => change(passing));
    on("clear-marks", "click", () => (change([], photos), $("only-marked").focus()));
    on("undo", "click", undo);
    on("redo", "click", redo);
    on("toast-close", "click", () => tell(""));
    on("toggle-filters", "click", () => {
      const open = document.body.classList.toggle("filtering");
      $("toggle-filters").setAttribute("aria-expanded", open);
    });
    on("open-help", "click", () => $("help").showModal());
    on("open-export", "click", openExport);
    makeClosable();
    window.addEventListener("hashchange", () => (readView(), update()));
    const changedElsewhere = () => (readKept(), marksChanged());
    for (const event of ["storage", "pageshow"]) window.addEventListener(event, changedElsewhere);
    document.addEventListener("keydown", pressedAnywhere);
  }

  function pressedAnywhere(event) {
    const typing = event.target.matches("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");
    const dialog = document.querySelector("dialog[open]");
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "z" && !typing && (!dialog || dialog === $("detail"))) {
      event.preventDefault();
      return $(event.shiftKey ? "redo" : "undo").click();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || dialog) return;
    if (event.key === "Escape" && event.target.closest("#filters") && !event.target.value && shown.length) focusOn(active);
    if (typing) return;
    if (event.key === "?") $("help").showModal();
    else if (event.key === "/") {
      document.body.classList.add("filtering");
      $("text").focus();
    } else return;
    event.preventDefault();
  }

  function readView() {
    const [found, written] = viewFrom(location.hash);
    view = found;
    readKept();
    takeMarks(written ?? "");
  }

  function showControls() {
    const [, , , directions] = ORDERS.get(view.order);
    if ($("text").value !== view.text) $("text").value = view.text;
    $("sort").value = view.order;
    $("direction").replaceChildren(
      ...directions.map((text, i) => new Option(text, String(i), false, Boolean(i) === view.turned)),
    );
    $("confidence").value = view.confidence;
    $("confidence-shown").value = percent(view.confidence);
    $("only-marked").checked = view.onlyMarked;
    $("stacks").checked = view.stacks;
    for (const input of $("label-scope").querySelectorAll("input")) input.checked = (input.value === "any") === view.any;
    const all = passing.length === photos.length ? count(photos.length) : `${whole(passing.length)} of ${count(photos.length)}`;
    $("count").value = closed.size ? `${all}, ${count(closed.size, "stack")}` : all;
    $("mark-shown").hidden = !shown.length;
    $("mark-shown").textContent = isFiltered() ? `Mark these ${whole(passing.length)}` : "Mark all";
    $("nothing").hidden = shown.length > 0;
    $("nothing-text").textContent = photos.length ? "No photo matches these filters." : "This batch has no photos.";
    $("clear-filters").hidden = !photos.length;
    showChips();
    showMarks();
  }

  function showMarks() {
    const number = marked().length;
    $("marked-count").textContent = whole(number);
    $("clear-marks").hidden = !number;
    $("clear-decisions").hidden = !decided("k").length && !decided("r").length;
    const last = lastOf(steps);
    $("undo").disabled = last < 0;
    $("undo").title = last < 0 ? "" : `Undo: ${saidOf(steps[last])}`;
    $("redo").hidden = lastOf(undone) < 0;
  }

  /** Show a button for each active filter, which removes it. */
  function showChips() {
    const chips = [];
    const chip = (text, remove) =>
      chips.push(make("button", { type: "button", class: "chip", title: "Remove this filter", onclick: () => (remove(), update(), focusChip()) }, text));
    if (view.text) chip(`name: ${plain(view.text)}`, () => (view.text = ""));
    for (const [name, [, said]] of Object.entries(FACETS))
      for (const value of view.chosen[name]) {
        const kind = sheet.hints.includes(value) ? "hint: " : "flag: ";
        const before = name in ORIGINS ? `${ORIGINS[name]}: ` : name === "flag" && value ? kind : name === "group" && value ? "groups: " : "";
        const after = name === "label" && view.any ? " (any of five)" : "";
        chip(`${before}${said(value)}${after}`, () => view.chosen[name].delete(value));
      }
    if (view.confidence) chip(`confidence \u2265 ${percent(view.confidence)}`, () => (view.confidence = 0));
    view.ranges.forEach((range, i) => {
      if (range) chip(`${words(metrics[i].name)} ${range.map(two).join(" to ")}`, () => (view.ranges[i] = null));
    });
    if (view.onlyMarked) chip("marked", () => (view.onlyMarked = false));
    if (chips.length > 1) chips.push(make("button", { type: "button", class: "chip all", onclick: () => (clearFilters(), focusChip()) }, "clear all"));
    $("chips").replaceChildren(...chips);
    $("chips").hidden = !chips.length;
  }

  const focusChip = () => ($("chips").firstElementChild ?? $("sort")).focus();

  // ---- facets: statuses, flags, reasons, labels with their counts ----------------------------------------------------

  function errorWords(key) {
    try {
      const [stage, reason] = JSON.parse(key);
      return stage === "photo" ? reasonWords(reason) : `${words(stage)}: ${reasonWords(reason)}`;
    } catch {
      return plain(key); // from an altered address
    }
  }

  function showFacets(bits) {
    const passes = (photo, but) => (bits[photo.number] & ~but) === 0;
    const counted = (but, valuesOf) => {
      const counts = new Map();
      for (const photo of photos) {
        const add = passes(photo, but) ? 1 : 0;
        for (const value of valuesOf(photo)) counts.set(value, (counts.get(value) ?? 0) + add);
      }
      return counts;
    };
    const byCount = ([a, many], [b, more]) => (a === "") - (b === "") || more - many;
    const byValue = ([a], [b]) => (a === "") - (b === "") || collator.compare(a, b);
    const always = { status: STATUSES, flag: [...sheet.flags, "", ...sheet.hints], group: [...Object.keys(KINDS), ""], decision: ["keep", "reject", ""] };
    const inList = (list) => ([a], [b]) => list.indexOf(a) - list.indexOf(b);
    const show = (name, box, order, keep = () => true) => {
      const [valuesOf, said] = FACETS[name];
      const counts = counted(BIT[name], valuesOf);
      for (const value of [...view.chosen[name], ...(always[name] ?? [])]) if (!counts.has(value)) counts.set(value, 0);
      facets(box, [...counts].filter(([value]) => keep(value)).sort(order), view.chosen[name], said);
    };
    show("status", $("statuses"), inList(STATUSES));
    if (signals.length) {
      show("flag", $("flags"), inList(always.flag), (name) => !sheet.hints.includes(name));
      show("flag", $("hints"), inList(always.flag), (name) => sheet.hints.includes(name));
    }
    if (groups.size) show("group", $("groups"), inList(always.group));
    show("decision", $("decisions"), inList(always.decision));
    show("reason", $("reasons"), byCount, (reason) => !shared.includes(reason));
    show("label", $("labels"), byCount);
    for (const name in ORIGINS) {
      show(name, $(`${name}-values`), name === "camera" || name === "lens" ? byCount : byValue);
      if (view.chosen[name].size) $(`${name}-origin`).open = true;
    }
    $("reasons-group").hidden = !$("reasons").childElementCount;
  }

  /** Show buttons with counts, which select values. Existing buttons are reused, so that they keep the focus. */
  function facets(box, counts, chosen, title) {
    const most = Math.max(1, ...counts.map(([, number]) => number));
    const old = new Map([...box.children].map((button) => [button.value, button]));
    const buttons = counts.map(([value, number]) => {
      const button = old.get(value) ?? facet(value, title(value), chosen);
      button.onclick = () => toggle(chosen, value);
      button.setAttribute("aria-pressed", chosen.has(value));
      button.classList.toggle("none", !number);
      button.style.setProperty("--share", number / most);
      button.lastChild.textContent = whole(number);
      return button;
    });
    place(box, buttons);
  }

  // ---- histograms ---------------------------------------------------------------------------------------------

  const histograms = []; // by metric; empty for a metric without scores

  function makeHistogram({ name, best, description }, i) {
    const scores = photos.map((photo) => photo.scores[i]).filter((score) => score !== null);
    const bins = binned(scores);
    const missing = photos.length - scores.length;
    const [all, some] = [svg("path", { class: "all" }), svg("path", { class: "some" })];
    const picture = svg("svg", { viewBox: `0 0 ${BINS} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, all, some);
    const brush = make("i", { class: "brush" });
    const plot = make("div", { class: "plot" }, picture, brush);
    const handle = (title, value) =>
      make("input", { type: "range", min: 0, max: 1, step: 0.01, value, "aria-label": `${title} ${words(name)}` });
    const [low, high] = [handle("Least", 0), handle("Most", 1)];
    const note = make("span", { class: "muted" });
    const end = (value) => make("span", { class: best === value ? "best" : "", textContent: best === value ? `${value} best` : value });
    const heading = make("div", { class: "line", title: plain(description) }, make("h3", { textContent: words(name) }), note);
    $("histograms").append(
      make("div", { class: "histogram" }, heading, plot, make("div", { class: "handles" }, low, high), make("div", { class: "ends" }, end(0), missing ? make("span", { textContent: `${whole(missing)} not measured` }) : null, end(1))),
    );
    const highest = Math.max(1, ...bins);
    all.setAttribute("d", outline(bins, highest));
    histograms[i] = { some, highest, brush, low, high, note };
    for (const input of [low, high]) input.addEventListener("input", () => rangeBy(i, input));
    brushOn(plot, i);
  }

  function binned(scores) {
    const bins = new Array(BINS).fill(0);
    for (const score of scores) bins[Math.min(BINS - 1, Math.floor(score * BINS))] += 1;
    return bins;
  }

  /** The SVG path of a histogram; every bar is high enough to be visible. */
  function outline(bins, highest) {
    const bar = (number, i) => number && `M${i + 0.06} 1V${1 - Math.max(0.04, number / highest)}h.88V1z`;
    return bins.map(bar).filter(Boolean).join("");
  }

  function showHistograms() {
    histograms.forEach(({ some, highest, brush, low, high, note }, i) => {
      const scores = Float64Array.from(passing.map((photo) => photo.scores[i]).filter((score) => score !== null)).sort();
      some.setAttribute("d", outline(binned(scores), highest));
      note.textContent = scores.length ? `median ${two(scores[scores.length >> 1])}` : "none shown";
      const [from, to] = view.ranges[i] ?? [0, 1];
      [low.value, high.value] = [from, to];
      brush.hidden = view.ranges[i] === null;
      brush.style.setProperty("--from", from);
      brush.style.setProperty("--to", to);
    });
  }

  function setRange(i, from, to) {
    view.ranges[i] = from <= 0 && to >= 1 ? null : [from, to];
    update();
  }

  function rangeBy(i, moved) {
    const { low, high } = histograms[i];
    const [from, to] = [Number(low.value), Number(high.value)];
    if (moved === low) setRange(i, Math.min(from, to), to);
    else setRange(i, from, Math.max(from, to));
  }

  function brushOn(plot, i) {
    let start = null;
    const at = (event) => {
      const { left, width } = plot.getBoundingClientRect();
      return Math.round(within((event.clientX - left) / width) * 100) / 100;
    };
    plot.addEventListener("pointerdown", (event) => {
      start = at(event);
      plot.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    plot.addEventListener("pointermove", (event) => {
      if (start === null || Math.abs(at(event) - start) < 0.02) return;
      setRange(i, Math.min(start, at(event)), Math.max(start, at(event)));
    });
    plot.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(at(event) - start) < 0.02) setRange(i, 0, 1);
      start = null;
    });
    plot.addEventListener("pointercancel", () => (start = null));
  }

  // ---- the grid: only visible cards are built -------------------------------------------------------------------

  const grid = $("grid");
  const cards = new Map(); // by photo
  let active = 0; // index in `shown` of the photo with the keyboard focus
  let anchor = 0; // index at which a range of marks begins
  let printing = false;

  const topOfGrid = () => grid.getBoundingClientRect().top + window.scrollY - $("sort").closest(".toolbar").offsetHeight;

  function geometry() {
    const style = getComputedStyle(grid);
    const [least, row, gap] = [style.gridAutoColumns, style.gridAutoRows, style.columnGap].map(parseFloat);
    const columns = Math.max(1, Math.floor((grid.clientWidth + gap) / (least + gap)));
    return { columns, gap, pitch: row + gap, width: (grid.clientWidth - gap * (columns - 1)) / columns };
  }

  const lineBelow = make("p", { class: "likely-line", role: "presentation", textContent: "Less likely from here" });

  /** The number of photos above the line between likely and unlikely results; 0 without a line. */
  function aboveLine() {
    if (view.order !== "match" || view.turned || sheet.search.likely === null) return 0;
    const above = shown.filter(({ position }) => position < sheet.search.likely).length;
    return above < shown.length ? above : 0;
  }

  /** Build the cards in the window, and half a window more on both sides. */
  function draw() {
    grid.hidden = !shown.length;
    const { columns, gap, pitch, width } = geometry();
    const above = aboveLine();
    const free = above ? (columns - (above % columns)) % columns : 0; // places at the end of the last row above the line
    const space = above ? parseFloat(getComputedStyle(document.documentElement).fontSize) * 2.5 : 0;
    const spare = window.innerHeight / 2;
    const top = -grid.getBoundingClientRect().top;
    const first = printing ? 0 : Math.max(0, Math.floor((top - spare) / pitch) * columns);
    const end = printing ? shown.length : Math.min(shown.length, Math.ceil((top + window.innerHeight + spare) / pitch) * columns);
    grid.style.setProperty("--height", `${Math.ceil((shown.length + free) / columns) * pitch - gap + space}px`);
    grid.style.setProperty("--width", `${width}px`);
    grid.dataset.sorted = metrics.findIndex(({ name }) => name === view.order);
    const seen = new Set();
    for (let i = Math.max(0, first - free - (space ? columns : 0)); i < end; i++) seen.add(i);
    if (shown.length) seen.add(active); // keeps the focus
    const wanted = [...seen].sort((a, b) => a - b).map((i) => {
      const card = cards.get(shown[i]) ?? makeCard(shown[i]);
      const [slot, lower] = above && i >= above ? [i + free, space] : [i, 0];
      card.style.setProperty("--x", `${(slot % columns) * (width + gap)}px`);
      card.style.setProperty("--y", `${Math.floor(slot / columns) * pitch + lower}px`);
      card.classList.toggle("unlikely", lower > 0);
      card.tabIndex = i === active ? 0 : -1;
      card.setAttribute("aria-posinset", i + 1);
      card.setAttribute("aria-setsize", shown.length);
      showState(card, shown[i]);
      const by = card.querySelector(".sorted-by");
      if (by.textContent !== sortedBy(shown[i])) by.textContent = sortedBy(shown[i]);
      return card;
    });
    lineBelow.style.setProperty("--y", `${((above + free) / columns) * pitch}px`);
    place(grid, above ? [...wanted, lineBelow] : wanted);
    const kept = new Set(wanted);
    for (const [photo, card] of cards) if (!kept.has(card)) cards.delete(photo);
    showPictures();
  }

  function makeCard(photo) {
    const card = make(
      "div",
      { class: `card ${photo.state}`, role: "option", id: `p${photo.number}`, "aria-label": spoken(photo), "aria-selected": isMarked(photo) },
      make("div", { class: "frame" }, pictureOf(photo), make("span", { class: "ring" }), badges(photo), make("span", { class: "corner" }, make("span", { class: "sorted-by" }), make("span", { class: "decided" }))),
      nameOf(photo),
      make("div", { class: "said" }, ...labelsOrReasons(photo)),
      make("div", { class: "scores" }, ...metrics.map((metric, i) => (measured[i] ? smallScore(metric, photo.scores[i], i) : ""))),
    );
    cards.set(photo, card);
    return card;
  }

  /** Show whether a card is a stack or in an open one, and the decisions on its photos. */
  function showState(card, photo) {
    const members = closed.get(photo);
    const isOpen = !members && view.stacks && photo.group && opened.has(photo.group.id);
    card.classList.toggle("stack", Boolean(members));
    card.classList.toggle("opened", Boolean(isOpen));
    const badge = card.querySelector(".group-badge");
    if (badge) badge.replaceChildren(...groupBadge(photo, members, isOpen));
    const made = (members ?? [photo]).map(decisionOf);
    const [kept, rejected] = ["keep", "reject"].map((name) => made.filter((one) => one === name).length);
    const parts = [kept && `${whole(kept)} kept`, rejected && `${whole(rejected)} rejected`].filter(Boolean);
    card.querySelector(".decided").textContent = members ? parts.join(", ") : decisionOf(photo);
    card.classList.toggle("keep", kept > 0);
    card.classList.toggle("reject", rejected === made.length);
    card.setAttribute("aria-label", spoken(photo));
  }

  function groupBadge({ group }, members, isOpen) {
    const arrow = members ? "\u25b8 " : isOpen ? "\u25be " : "";
    const place = group.kind === "set" || members ? whole(group.size) : `rank ${whole(group.rank)} of ${whole(group.size)}`;
    return [arrow, make("span", { class: "kind", textContent: `${kindOf(group)} ` }), place];
  }

  function badges(photo) {
    const group = photo.group && make("span", { class: "badge group-badge", title: plain(photo.group.reason) });
    const state = photo.state === "ok" ? [] : [make("span", { class: "badge", textContent: photo.state })];
    return make("span", { class: "badges" }, group, ...state, ...flagBadges(photo));
  }

  /** The signal by which photos are sorted; empty in another order. */
  function sortedBy(photo) {
    const title = { blur_px: "edges", focus_px: "focus" }[view.order];
    if (!title) return "";
    const value = signalOf(photo, view.order);
    return value === null ? "not measured" : `${title} ${pixels(value)}`;
  }

  function nameOf(photo) {
    const folder = photo.folder && make("bdi", { class: "muted", textContent: plain(photo.folder) });
    return make("p", { class: "name", title: plain(photo.path) }, make("bdi", { textContent: plain(photo.name) }), folder ? " " : "", folder);
  }

  function spoken(photo) {
    const [label] = photo.labels;
    const parts = [plain(photo.name), photo.folder && `folder ${plain(photo.folder)}`, photo.state, ...photo.flags.map(([name]) => `flag ${plain(name)}`), ...photo.hints.map(([name]) => `hint ${plain(name)}`), photo.group && groupWords(photo), decisionOf(photo), label && `${plain(label[0])} ${percent(label[1])}`, ...reasonLines(photo.problems)];
    const scores = metrics.map(({ name }, i) => photo.scores[i] !== null && `${words(name)} ${two(photo.scores[i])}`);
    return [...parts, ...scores].filter(Boolean).join(", ");
  }

  const reasonLines = (errors) => PARTS.reasonLines(errors, reasonWords);

  function labelsOrReasons(photo) {
    const reasons = reasonLines(photo.problems);
    const labels = labelLines(photo.labels.slice(0, reasons.length ? 2 : 3));
    const why = reasons.length ? make("p", { class: labels.length ? "why short" : "why", title: reasons.join("\n"), textContent: reasons.join("; ") }) : null;
    return [...labels, why];
  }

  function pictureOf(photo) {
    if (!photo.thumbnail) return make("span", { class: "muted", textContent: "no picture" });
    const [width, height] = photo.thumbnail;
    return make("img", { alt: "", width, height, decoding: "async", draggable: false, "data-number": photo.number });
  }

  /** Set the sources of built pictures, as far as the browser has read the file. */
  function showPictures(root = grid) {
    for (const image of root.querySelectorAll("img:not([src])")) {
      const block = $(`t${image.dataset.number}`);
      if (!block || (document.readyState === "loading" && !block.nextSibling)) continue; // the block may be incomplete
      const [mime, text] = JSON.parse(block.textContent);
      image.src = `data:${mime};base64,${text}`;
    }
  }

  function focusOn(place) {
    active = Math.min(shown.length - 1, Math.max(0, place));
    draw();
    const card = cards.get(shown[active]);
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function listenToGrid() {
    redraw(draw);
    window.addEventListener("beforeprint", () => ((printing = true), draw()));
    window.addEventListener("afterprint", () => ((printing = false), draw()));
    grid.addEventListener("keydown", pressedInGrid);
    grid.addEventListener("click", clickedInGrid);
    const reading = setInterval(showPictures, 100);
    document.addEventListener("DOMContentLoaded", () => (clearInterval(reading), showPictures()));
  }

  function pressedInGrid(event) {
    const { columns, pitch } = geometry();
    const screen = Math.max(1, Math.floor(window.innerHeight / pitch) - 1) * columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -screen, PageDown: screen, Home: -active, End: shown.length };
    const { key, shiftKey } = event;
    const held = event.ctrlKey || event.metaKey;
    if (event.altKey) return;
    if (held && key.toLowerCase() === "a") change(passing);
    else if (held) return;
    else if (decidedBy(key, shown[active])) return event.preventDefault();
    else if (key === "s") toggleStack(shown[active]);
    else if (key in steps) {
      const goal = active + steps[key];
      if (Math.abs(steps[key]) === columns && (goal < 0 || goal >= shown.length)) return event.preventDefault();
      focusOn(goal);
      if (shiftKey) change(between(anchor, active));
      else anchor = active;
    } else if (key === " ") toggleMark(active);
    else if (key === "Enter") openDetail(active);
    else return;
    event.preventDefault();
  }

  /** Decide on a photo by a key; returns whether it is one of these keys. */
  function decidedBy(key, photo) {
    const actions = { k: () => decideOn(photo, "k"), x: () => decideOn(photo, "r"), b: () => keepOnly(photo) };
    actions[key]?.();
    return key in actions;
  }

  function clickedInGrid(event) {
    const card = event.target.closest(".card");
    if (!card) return;
    const place = shown.findIndex((photo) => cards.get(photo) === card);
    const from = anchor;
    const isBadge = event.target.closest(".group-badge") !== null; // its content is replaced by `focusOn`
    focusOn(place);
    if (isBadge && view.stacks) return toggleStack(shown[place]);
    if (event.shiftKey) change(between(from, place));
    else if (event.ctrlKey || event.metaKey || event.target.closest(".ring")) toggleMark(place);
    else openDetail(place);
  }

  const between = (a, b) => shown.slice(Math.min(a, b), Math.max(a, b) + 1);

  function toggleMark(place) {
    anchor = place;
    if (isMarked(shown[place])) change([], [shown[place]]);
    else change([shown[place]]);
  }

  function marksChanged() {
    for (const [photo, card] of cards) {
      card.setAttribute("aria-selected", isMarked(photo));
      showState(card, photo);
    }
    if ($("detail").open) showDecisions(shown[active]);
    const inGrid = grid.contains(document.activeElement);
    const place = active;
    const isAffected = view.onlyMarked || view.chosen.decision.size > 0;
    if (isAffected && !$("detail").open) {
      update({ toTop: false });
      if (inGrid && shown.length) focusOn(place);
    }
    else showCounts();
    showMarks();
    writeFragment();
  }

  /** Show the counts of the filters again, without a change of the shown photos. */
  function showCounts() {
    const parts = folded(view.text).split(/\s+/).filter(Boolean);
    showFacets(photos.map((photo) => failing(photo, parts)));
  }

  // ---- details ------------------------------------------------------------------------------------------------

  function openDetail(place) {
    active = place;
    showDetail();
    $("detail").showModal();
  }

  function showDetail() {
    const photo = shown[active];
    $("detail-name").textContent = plain(photo.name);
    $("detail-place").textContent = `${whole(active + 1)} of ${whole(shown.length)}`;
    $("previous").disabled = active === 0;
    $("next").disabled = active === shown.length - 1;
    $("detail-body").replaceChildren(
      make("div", { class: "side" }, figure(photo), factsOf(photo)),
      make("div", { class: "numbers" }, ...groupSection(photo), ...errorsOf(photo), ...flagsOf(photo), labelTable(photo), ...signalTable(photo), scoreTable(photo)),
    );
    showDecisions(photo);
    $("detail-body").scrollTop = 0;
    showPictures($("detail-body"));
  }

  /** Show the mark and the decision on the photo of the details, and those of its group. */
  function showDecisions(photo) {
    $("detail-mark").checked = isMarked(photo);
    $("detail-keep").setAttribute("aria-pressed", decisionOf(photo) === "keep");
    $("detail-reject").setAttribute("aria-pressed", decisionOf(photo) === "reject");
    for (const member of $("detail-body").querySelectorAll(".member")) {
      const decision = decisionOf(photos[member.value]);
      member.classList.toggle("keep", decision === "keep");
      member.classList.toggle("reject", decision === "reject");
      member.querySelector(".decided").textContent = decision;
    }
  }

  /** The group of a photo: its kind, why the photo has its rank, and its other photos. */
  function groupSection(photo) {
    const { group } = photo;
    if (!group) return [];
    const isSet = group.kind === "set";
    const title = isSet ? `Set of ${whole(group.size)}${group.what ? `: ${plain(group.what)}` : ""}` : group.kind === "copy" ? `${whole(group.size)} copies of one picture` : `Burst of ${whole(group.size)}`;
    const better = group.copy_of === null ? null : photos.find((one) => isSame(one, { id: group.copy_of, path: group.copy_of_path }));
    const lines = [isSet ? "All photos of a set are kept." : `Rank ${whole(group.rank)}`, plain(group.reason), better && `copy of ${plain(better.name === photo.name ? better.path : better.name)}`, `any two at least ${percent(group.similarity)} alike`];
    const text = isSet ? `${lines[0]} Here: ${lines[1]}; ${lines[3]}.` : `${lines[0]}: ${lines.slice(1).filter(Boolean).join("; ")}.`;
    const keep = isSet ? null : make("button", { type: "button", class: "small", "aria-keyshortcuts": "b", onclick: () => keepOnly(photo) }, "Keep this, reject the rest");
    const members = groupOf(photo).map((one) => member(one, one === photo));
    return [make("section", { class: "of-group" }, make("h3", { textContent: title }), make("p", {}, make("bdi", { textContent: text })), make("div", { class: "members" }, ...members), keep)];
  }

  function member(photo, isCurrent) {
    const title = `${plain(photo.name)}: ${groupWords(photo)}`;
    const rank = photo.group.kind === "set" ? "" : whole(photo.group.rank);
    return make(
      "button",
      { type: "button", class: "member", value: String(photo.number), title, "aria-label": title, "aria-current": isCurrent, onclick: () => showMember(photo) },
      pictureOf(photo),
      make("span", { class: "rank", textContent: rank }),
      make("span", { class: "decided" }),
    );
  }

  /** Show the details of another photo of the group; its stack is opened, so that it has a card. */
  function showMember(photo) {
    if (placeOf(photo) < 0) return tell("This photo does not match the filters.");
    if (shown.indexOf(photo) < 0) {
      opened.add(photo.group.id);
      update({ toTop: false });
    }
    active = shown.indexOf(photo);
    showDetail();
    $("detail-body").focus();
  }

  function figure(photo) {
    const link = (href, text) => href && make("p", {}, make("a", { href, target: "_blank", rel: "noopener noreferrer", textContent: text }));
    const lines = [placeWords(photo), link(photo.href, "Open the picture"), link(photo.original, "Open the original")].filter(Boolean);
    return make("figure", {}, make("div", { class: "frame" }, pictureOf(photo), placeFrame(photo)), lines.length ? make("figcaption", {}, ...lines) : null);
  }

  function placeWords(photo) {
    if (!photo.focus) return null;
    const [left, top, width, height] = photo.focus;
    const where = `${percent(left + width / 2)} from the left, ${percent(top + height / 2)} from the top`.replaceAll(" %", "\u00a0%");
    return make("p", { class: "muted", textContent: `${photo.thumbnail ? "Framed: one" : "One"} of the sharpest places, ${where}.` });
  }

  /** A frame around the sharpest place, large enough to be visible, over the picture. */
  function placeFrame(photo) {
    if (!photo.focus || !photo.thumbnail) return null;
    const [width, height] = photo.thumbnail;
    const least = Math.max(width, height) / 16;
    const [x, y, w, h] = photo.focus.map((share, i) => share * [width, height][i % 2]);
    const [wide, high] = [Math.max(w, least), Math.max(h, least)];
    const box = { x: x + (w - wide) / 2, y: y + (h - high) / 2, width: wide, height: high };
    const frame = { viewBox: `0 0 ${width} ${height}`, class: "sharpest", "aria-hidden": "true" };
    return svg("svg", frame, svg("rect", { ...box, class: "under" }), svg("rect", box));
  }

  function factsOf(photo) {
    const size = photo.width && photo.height ? `${whole(photo.width)} \u00d7 ${whole(photo.height)} px` : null;
    const analysed = [size, photo.format].filter(Boolean).join(", ");
    const facts = [["Path", photo.folder && photo.path], ["Status", photo.status], ...photo.facts, ["Analysed at", analysed], [sheet.search ? "Place" : "Place in the batch", whole(photo.position + 1)], ["Id", photo.id]];
    return factList(facts);
  }

  function errorsOf(photo) {
    if (!photo.errors.length) return [];
    const items = photo.errors.map(([stage, reason, message]) =>
      make("li", {}, make("strong", { textContent: errorWords(JSON.stringify([stage, reason])) }), make("br"), make("bdi", { class: "muted", textContent: plain(message) })),
    );
    return [make("h3", { textContent: "Not measured" }), make("ul", { class: "errors" }, ...items)];
  }

  function signalTable(photo) {
    const rows = signals.filter((name) => SIGNALS[name]).map((name) => {
      const value = signalOf(photo, name);
      const [title, said, more, less] = SIGNALS[name];
      const text = value === null ? title : said(value);
      const rank = value === null ? cell("not measured", { class: "muted" }) : cell(rankOf(name, value, more, less));
      return make("tr", {}, make("th", { scope: "row", textContent: text }), rank);
    });
    return rows.length ? [make("div", {}, table("Signals", ["signal", "in this batch"], rows))] : [];
  }

  /** How a photo compares with the others of the batch, in the direction in which it differs from more of them. */
  function rankOf(name, value, more, less) {
    const others = photos.map((photo) => signalOf(photo, name)).filter((other) => other !== null);
    const all = others.length - 1; // without this photo
    const [below, above] = [others.filter((other) => other < value).length, others.filter((other) => other > value).length];
    const [word, number] = below >= above ? [more, below] : [less, above];
    if (!all) return "";
    if (!number) return "like all others";
    if (number === all) return `${word} than all others`;
    const share = Math.floor((100 * number) / all);
    return all <= 100 || !share ? `${word} than ${whole(number)} of ${whole(all)}` : `${word} than ${share} of 100`;
  }

  function scoreTable(photo) {
    const rows = metrics.flatMap((metric, i) => [scoreRow(metric, photo.scores[i], i), ...metric.raw.filter(({ name }) => name in photo.raw).map((raw) => rawRow(raw, photo.raw[raw.name]))]);
    return table("Scores", ["score", "0 to 1", "in this batch"], rows);
  }

  function scoreRow({ name, best, description }, score, i) {
    const title = make("th", { scope: "row", title: plain(description) }, words(name), make("small", { textContent: ` ${best} is best` }));
    if (score === null) return make("tr", {}, title, cell("\u2013"), cell("not measured", { class: "muted" }));
    const others = photos.map((photo) => photo.scores[i]).filter((other) => other !== null);
    const worse = others.filter((other) => (best ? other < score : other > score)).length;
    const rank = others.length > 1 ? `better than ${percent(worse / (others.length - 1))}` : "";
    return make("tr", { class: "measured", "--share": score }, title, cell(score.toFixed(3)), cell(rank));
  }

  function rawRow({ name, unit, description }, value) {
    return make("tr", { class: "raw" }, make("th", { scope: "row", title: plain(description), textContent: words(name) }), cell(precise(value)), cell(plain(unit)));
  }

  function listenToDetail() {
    const detail = $("detail");
    const go = (step) => {
      if (!shown[active + step]) return;
      active += step;
      showDetail();
      if (document.activeElement.disabled) $("detail-body").focus(); // otherwise keys have no target
    };
    $("previous").addEventListener("click", () => go(-1));
    $("next").addEventListener("click", () => go(1));
    $("detail-mark").addEventListener("change", () => toggleMark(active));
    $("detail-keep").addEventListener("click", () => decideOn(shown[active], "k"));
    $("detail-reject").addEventListener("click", () => decideOn(shown[active], "r"));
    detail.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") go(-1);
      else if (event.key === "ArrowRight") go(1);
      else if (decidedBy(event.key, shown[active])) return event.preventDefault();
      else if (event.key === " " && !event.target.matches("button, input")) $("detail-mark").click();
      else return;
      event.preventDefault();
      if (event.key !== " ") $("detail-body").focus(); // so that space marks the new photo
    });
    for (const button of detail.querySelectorAll("header button"))
      button.addEventListener("mousedown", (event) => event.preventDefault()); // a click does not move the focus, so that space still marks
    detail.addEventListener("close", () => {
      const place = active;
      if (view.onlyMarked || view.chosen.decision.size) update({ toTop: false });
      if (shown.length) focusOn(place);
    });
  }

  // ---- lists --------------------------------------------------------------------------------------------------

  const picked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
  const inBatch = () => inOrder(view.order, view.turned).filter(isMarked);
  const listed = () => {
    const which = picked("which");
    if (which === "marked") return inBatch();
    return which === "shown" ? passing : inOrder(view.order, view.turned).filter((photo) => decisionOf(photo) === which);
  };
  const LINES = {
    path: (photo) => line(photo.path),
    quoted: (photo) => quoted(photo.path),
    name: (photo) => line(photo.name),
    id: (photo) => line(photo.id),
  };

  /** Prefix a text that a spreadsheet would read as a formula. */
  const harmless = (text) => (/^[\s\u0000-\u001f]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(text) ? `'${text}` : text);

  const line = (text) => harmless(text.replace(/[\r\n\u2028\u2029]/g, "\ufffd"));

  /** Quote a path for a shell: '...', or $'...' of bash and zsh if it has unprintable characters. */
  function quoted(path) {
    const safe = path.startsWith("-") ? `./${path}` : path; // not an option of a command
    if (!UNPRINTABLE.test(safe)) return `'${safe.replaceAll("'", "'\\''")}'`;
    const escaped = (character) => (/[\\']/.test(character) ? `\\${character}` : UNPRINTABLE.test(character) ? octal(character) : character);
    return `$'${[...safe].map(escaped).join("")}'`;
  }

  /** Escape the bytes of a character; a lone surrogate represents one byte that is not UTF-8. */
  function octal(character) {
    const code = character.codePointAt(0);
    const bytes = code >= 0xdc80 && code <= 0xdcff ? [code - 0xdc00] : new TextEncoder().encode(character);
    return [...bytes].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
  }

  function openExport() {
    showChoices();
    $("export").showModal();
  }

  function showChoices() {
    const number = marked().length;
    $("which-marked").textContent = `marked (${whole(number)})`;
    $("which-shown").textContent = `shown (${whole(passing.length)})`;
    const numbers = { marked: number, shown: Infinity, keep: decided("k").length, reject: decided("r").length };
    $("which-keep").textContent = `keep (${whole(numbers.keep)})`;
    $("which-reject").textContent = `reject (${whole(numbers.reject)})`;
    for (const input of document.querySelectorAll("input[name=which]")) {
      input.disabled = !numbers[input.value];
      input.checked = input.value === (number ? "marked" : "shown");
      input.parentElement.hidden = input.disabled && ["keep", "reject"].includes(input.value);
    }
    $("save-marks").disabled = !number && !numbers.keep && !numbers.reject;
    showList();
  }

  function showList() {
    $("list").value = listed().map(LINES[picked("what")]).join("\n");
    $("copied").value = "";
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText($("list").value);
    } catch {
      $("list").select(); // without the clipboard API
      if (!document.execCommand("copy")) return ($("copied").value = "press Ctrl+C");
    }
    $("copied").value = `${count(listed().length)} copied`;
  }

  const GROUP_FIELDS = ["id", "kind", "what", "rank", "size", "copy_of", "copy_of_path", "reason"];

  function csv(some) {
    const numbered = (title) => [1, 2, 3, 4, 5].map((i) => `${title}_${i}`);
    const head = ["place", "path", "name", "id", "status", "marked", ...metrics.map(({ name }) => name), "flags", "hints", ...(groups.size ? GROUP_FIELDS.map((name) => `group_${name}`) : []), "decision", ...signals, ...numbered("label"), ...numbered("confidence")];
    const names = (flags) => flags.map(([name]) => name).join(" ") || null;
    const row = (photo) => {
      const five = (part) => [0, 1, 2, 3, 4].map((i) => photo.labels[i]?.[part] ?? null);
      return [photo.position + 1, photo.path, photo.name, photo.id, photo.status, isMarked(photo) ? 1 : 0, ...photo.scores, names(photo.flags), names(photo.hints), ...(groups.size ? GROUP_FIELDS.map((name) => photo.group?.[name] || null) : []), decisionOf(photo) || null, ...signals.map((name) => signalOf(photo, name)), ...five(0), ...five(1)];
    };
    const field = (value) => (value === null ? "" : typeof value === "number" ? String(value) : `"${harmless(value).replaceAll('"', '""')}"`);
    return `\ufeff${[head, ...some.map(row)].map((values) => values.map(field).join(",")).join("\r\n")}\r\n`;
  }

  function download(text, type, ending) {
    const address = URL.createObjectURL(new Blob([text], { type }));
    make("a", { href: address, download: `${sheet.batch_id.replace(/[^\w.-]/g, "_")}-${ending}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  function saveMarks() {
    const entries = (some) => some.map(({ id, path }) => ({ photo_id: id, path }));
    const both = { keep: entries(decided("k")), reject: entries(decided("r")) };
    const found = { batch_id: sheet.batch_id, marked: entries(marked()), ...(both.keep.length + both.reject.length ? both : {}) };
    download(`${JSON.stringify(found, null, 1)}\n`, "application/json", "marks.json");
  }

  /** The photo of a saved entry, by id. Files with one id are distinguished by path; of an unknown path it may be any. */
  function photoOf({ photo_id, path }) {
    const found = withId.get(photo_id) ?? [];
    return found.find((photo) => photo.path === path) ?? (found.every((photo) => isSame(photo, found[0])) ? found[0] : undefined);
  }

  /** Add the marks of a saved file. */
  async function loadMarks(file) {
    try {
      const { marked: entries, keep = [], reject = [] } = JSON.parse(await file.text());
      const known = (some) => some.map(photoOf).filter((photo) => photo !== undefined);
      const on = known(entries);
      const decide = [...known(keep).map((photo) => [photo, "k"]), ...known(reject).map((photo) => [photo, "r"])];
      change(on, [], decide);
      showChoices();
      const decisions = decide.length ? `, and ${count(decide.length, "decision")}` : "";
      $("copied").value = `${whole(on.length)} of ${count(entries.length, "mark")} are of photos here${decisions}`;
    } catch {
      $("copied").value = "not a file of marks";
    }
  }

  // -------------------------------------------------------------------------------------------------------------

  setUp();
  listenToControls();
  listenToGrid();
  listenToDetail();
  $("export").addEventListener("change", showList);
  $("copy").addEventListener("click", copy);
  $("download").addEventListener("click", () => download(csv(listed()), "text/csv", `${picked("which")}.csv`));
  $("save-marks").addEventListener("click", saveMarks);
  const chooser = make("input", { type: "file", accept: ".json", onchange: () => loadMarks(chooser.files[0]) });
  $("load-marks").addEventListener("click", () => ((chooser.value = ""), chooser.click()));
  readView();
  update();
  document.documentElement.dataset.ready = performance.now();
})();
