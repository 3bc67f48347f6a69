// ---- mouse and fingers ----

const onward = (plane) => (plane === axial ? -1 : 1); // the wheel turns towards the feet, the back, the left
const scroll = (plane, steps) => moveTo(view.point.map((place, axis) => place + (axis === plane.through ? steps * onward(plane) : 0)));
const toEnd = (plane, last) => scroll(plane, last ? 1e6 : -1e6);
const nudge = (plane, across, down) => moveTo(view.point.map((place, axis) =>
  place + (axis === plane.across ? across : axis === plane.down ? (axis === 2 ? -down : down) : 0)));

const zoomBy = (factor, about) => {
  const [x, y] = about || [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const zoom = clamp(view.zoom * factor, 1, 12);
  const ratio = zoom / view.zoom;
  view.panX = (x - canvas.clientWidth / 2) * (1 - ratio) + view.panX * ratio;
  view.panY = (y - canvas.clientHeight / 2) * (1 - ratio) + view.panY * ratio;
  view.zoom = zoom;
  if (zoom === 1) [view.panX, view.panY] = [0, 0];
  redraw();
};
const fit = () => { [view.zoom, view.panX, view.panY] = [1, 0, 0]; redraw(); };
const pan = (x, y) => { [view.panX, view.panY] = [view.panX + x, view.panY + y]; redraw(); };

const CLICK = 4; // pixels that a click may move
const PER_SLICE = 14; // pixels of a swipe
for (const plane of planes) {
  const element = plane.element;
  const fingers = new Map();
  let [wheel, swiped, start, moved] = [0, 0, null, false];
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    stopCine();
    if (event.ctrlKey) { zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, plane === axial ? [event.offsetX, event.offsetY] : null); return; }
    // A notch of a wheel is one slice; a touch pad sends many small steps.
    wheel = event.deltaMode || Math.abs(event.deltaY) >= 50 ? Math.sign(event.deltaY) * 40 : wheel + event.deltaY;
    if (Math.abs(wheel) >= 40) {
      scroll(plane, Math.trunc(wheel / 40));
      wheel = 0;
    }
  }, { passive: false });
  // One finger scrolls, as a page does: upwards and to the left leads on. Two zoom and move.
  const touch = (event) => {
    const before = [...fingers.values()];
    const last = fingers.get(event.pointerId);
    const now = [event.clientX, event.clientY];
    if (!last) return;
    fingers.set(event.pointerId, now);
    const after = [...fingers.values()];
    if (before.length === 2) {
      const span = ([one, other]) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      const area = element.getBoundingClientRect();
      const [x, y] = [0, 1].map((axis) => (after[0][axis] + after[1][axis]) / 2);
      zoomBy(span(after) / Math.max(span(before), 1), plane === axial ? [x - area.left, y - area.top] : null);
      if (plane === axial) pan((now[0] - last[0]) / 2, (now[1] - last[1]) / 2);
    } else if (!view.tool) {
      const [x, y] = [now[0] - last[0], now[1] - last[1]];
      swiped -= Math.abs(y) > Math.abs(x) ? y : x;
      scroll(plane, Math.trunc(swiped / PER_SLICE));
      swiped %= PER_SLICE;
    }
  };
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    stopCine();
    if (event.pointerType === "touch") fingers.set(event.pointerId, [event.clientX, event.clientY]);
    [start, moved] = [[event.offsetX, event.offsetY], fingers.size > 1];
    if (view.tool && event.button === 0 && !moved) addPoint(plane, pointAt(plane, start));
  });
  element.addEventListener("pointermove", (event) => {
    const here = [event.offsetX, event.offsetY];
    [view.pointer, view.hover] = [pointAt(plane, here), plane];
    moved ||= start !== null && Math.hypot(here[0] - start[0], here[1] - start[1]) > CLICK;
    if (event.pointerType === "touch") touch(event);
    else if (event.buttons & 1 && event.shiftKey || event.buttons & 4) pan(event.movementX, event.movementY);
    else if (event.buttons & 1 && moved && !view.tool) {
      const pace = view.width / 400;
      setWindow(view.level + 2 * pace * event.movementY, view.width + 2 * pace * event.movementX, true);
    }
    redraw();
  });
  element.addEventListener("pointerup", (event) => {
    const here = pointAt(plane, [event.offsetX, event.offsetY]);
    const several = fingers.size > 1;
    fingers.delete(event.pointerId);
    if (start && event.button === 0 && !several) {
      if (view.tool && moved && drawing) addPoint(plane, here);
      else if (!view.tool && !moved) moveTo(here);
    }
    start = null;
  });
  element.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    // The browser took the gesture over: what it began must not be ended by the next one.
    if (start && drawing) { drawing = null; say("Measurement cancelled."); redraw(); }
    start = null;
  });
  element.addEventListener("pointerleave", () => { view.pointer = null; redraw(); });
}

// ---- cine: the slices of a plane one after the other, and back ----

let playing = 0; // number of the film that runs
const stopCine = () => {
  playing = -Math.abs(playing);
  get("cine").setAttribute("aria-pressed", "false");
};
const cine = async (plane) => {
  if (playing > 0) { stopCine(); return; }
  playing = 1 - playing;
  get("cine").setAttribute("aria-pressed", "true");
  const film = playing;
  let step = 1;
  while (playing === film && COUNT[plane.through] > 1) {
    const next = indexIn(plane) + step * onward(plane);
    if (next < 0 || next >= COUNT[plane.through]) { step = -step; continue; }
    if (plane === axial) await load(next);
    await new Promise((done) => setTimeout(done, 80));
    if (playing === film) scroll(plane, step);
  }
};

// ---- print: a key image of each lesion in the list that was not rejected ----

const keyImage = (lesion) => {
  const figure = document.createElement("figure");
  const [picture, caption] = [document.createElement("canvas"), document.createElement("figcaption")];
  const size = [900, Math.round(clamp(900 * height * stepY / (width * stepX), 450, 1100))];
  [picture.width, picture.height] = size;
  const before = { point: view.point, zoom: view.zoom, panX: view.panX, panY: view.panY, chosen: view.chosen, crosshair: view.crosshair, pointer: view.pointer };
  Object.assign(view, { point: [view.point[0], view.point[1], lesion.key], zoom: 1, panX: 0, panY: 0, chosen: lesion, crosshair: false, pointer: null });
  const shownAs = [view.level, view.width];
  if (!view.ownWindow) usePreset(lesion.preset, false);
  paint(axial, picture.getContext("2d"), size);
  Object.assign(view, before);
  setWindow(...shownAs, false);
  const remark = review.lesions[lesion.number]?.comment;
  const words = [...data.head.notices, document.title, lesion.words, decisionOf(lesion), ...(remark ? [remark] : [])];
  caption.textContent = words.map((text) => text.replace(/\.$/, "")).join("; ");
  figure.append(picture, caption);
  return figure;
};
const printed = () => sorted().filter((one) => shown(one) && decisionOf(one) !== "rejected");
const printImages = async () => {
  const figures = [];
  for (const lesion of printed()) {
    await load(lesion.key);
    if (slices.has(lesion.key)) figures.push(keyImage(lesion));
  }
  get("print").replaceChildren(...figures);
  if (!figures.length) say("There is no lesion to print.");
  else window.print();
};
// By the browser's menu there is no time to decode: what is at hand is printed, and what is not is named.
const atHand = (z) => {
  if (!slices.has(z) && thin === 1 && filled[z]) slices.set(z, volume.slice(z * columns * rows, (z + 1) * columns * rows));
  return slices.has(z);
};
window.addEventListener("beforeprint", () => {
  if (get("print").children.length) return;
  const missing = printed().filter((lesion) => !atHand(lesion.key));
  const figures = printed().filter((lesion) => !missing.includes(lesion)).map(keyImage);
  const note = document.createElement("figure");
  note.textContent = figures.length || missing.length ? `Lesions that are not on this print, as their slices were not decoded yet: ${missing.map((one) => one.number).join(", ")}. Use the button Print.` : "There is no lesion to print.";
  get("print").replaceChildren(...figures, ...(missing.length || !figures.length ? [note] : []));
});
window.addEventListener("afterprint", () => get("print").replaceChildren());

// ---- keys ----

const toggle = (name) => {
  const box = get(name);
  box.checked = !box.checked;
  box.dispatchEvent(new Event("change"));
};
const focused = () => planes.find((plane) => plane.element === document.activeElement) ?? axial;
const actions = {
  ArrowDown: () => scroll(focused(), 1), ArrowUp: () => scroll(focused(), -1),
  PageDown: () => scroll(focused(), 10), PageUp: () => scroll(focused(), -10),
  Home: () => toEnd(focused(), false), End: () => toEnd(focused(), true),
  "Shift ArrowDown": () => nudge(focused(), 0, 1), "Shift ArrowUp": () => nudge(focused(), 0, -1),
  "Shift ArrowRight": () => nudge(focused(), 1, 0), "Shift ArrowLeft": () => nudge(focused(), -1, 0),
  n: () => chooseNext(1), ArrowRight: () => chooseNext(1), p: () => chooseNext(-1), ArrowLeft: () => chooseNext(-1),
  ...Object.fromEntries(presets.map((_, index) => [index + 1, () => usePreset(index, true)])),
  [presets.length + 1]: () => setWindow(...view.custom, true),
  "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8), 0: fit,
  b: () => toggle("boxes"), i: () => toggle("invert"), h: () => toggle("crosshair"), " ": () => cine(focused()),
  "Shift n": () => nextUndecided(1), "Shift p": () => nextUndecided(-1),
  a: () => decide("accepted"), u: () => decide("uncertain"), x: () => decide("rejected"), c: () => { if (view.chosen) comment.focus(); },
  r: () => useTool("ruler"), d: () => useTool("diameters"), o: () => useTool("roi"),
  Enter: () => addPoint(focused(), view.point.map((place) => place + 0.5)), Escape: () => { if (view.tool) useTool(view.tool); },
};
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "p") {
    event.preventDefault();
    printImages();
  }
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
  if (target.matches("button, summary, input") && [" ", "Enter"].includes(event.key)) return;
  // Sliders keep their own keys; the one for slices runs as the picture does.
  if (target.type === "range" && target.id !== "slice" && event.key.length > 1) return;
  // In a field every key is text, but Escape leads back to the picture.
  if (target.matches("textarea, select, input[type=number]")) {
    if (event.key === "Escape") canvas.focus({ preventScroll: true });
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = (event.shiftKey && actions[`Shift ${key}`]) || actions[key];
  if (action) {
    event.preventDefault();
    if (key !== " ") stopCine();
    action();
  }
});

get("slice").addEventListener("input", (event) => goTo(depth - 1 - Number(event.target.value)));
get("level").addEventListener("input", (event) => setWindow(Number(event.target.value), view.width, true));
get("width").addEventListener("input", (event) => setWindow(view.level, Number(event.target.value), true));
for (const plane of planes) plane.element.addEventListener("focus", () => { view.plane = plane; });
presets.forEach((button, index) => button.addEventListener("click", () => usePreset(index, true)));
get("zoomin").addEventListener("click", () => zoomBy(1.25));
get("zoomout").addEventListener("click", () => zoomBy(0.8));
get("fit").addEventListener("click", fit);
for (const name of ["boxes", "crosshair"]) get(name).addEventListener("change", () => { view[name] = get(name).checked; redraw(); });
get("invert").addEventListener("change", () => { view.invert = get("invert").checked; setWindow(view.level, view.width, false); });
get("custom").addEventListener("click", () => setWindow(...view.custom, true));
get("cine").addEventListener("click", () => cine(view.plane));
get("printimages").addEventListener("click", printImages);
threshold.addEventListener("input", applyFilters);
const sizes = new ResizeObserver(() => { sizeOverview(); redraw(); });
for (const plane of planes) sizes.observe(plane.element);

// ---- beginning ----

for (const [name, text] of data.about) {
  const [term, meaning] = [document.createElement("dt"), document.createElement("dd")];
  [term.textContent, meaning.textContent] = [name, text];
  get("about").append(term, meaning);
}
get("slice").max = depth - 1;
threshold.min = Math.floor(100 * Math.min(data.threshold ?? 1, ...data.lesions.map((lesion) => lesion.score))) / 100;
threshold.max = 1;
threshold.value = data.threshold ?? 0;
sizeOverview();
usePreset(1, false);
showReview();
listMeasurements();
applyFilters();
const first = data.lesions.find(shown);
if (first) choose(first);
else goTo(Math.floor(depth / 2));
canvas.focus({ preventScroll: true });
load(view.z).then(decodeAll);

// Some browsers change what scripts read from pictures, against fingerprinting.
reading.fillStyle = "#404040";
reading.fillRect(0, 0, 2, 2);
if (Math.abs(reading.getImageData(1, 1, 1, 1).data[0] - 64) > 2) {
  get("none").hidden = false;
  get("none").textContent = "This browser alters pictures that a page reads (protection against fingerprinting): allow it for this file, or use another browser.";
}
