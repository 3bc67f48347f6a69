// ---- mouse and keys ----

let wheel = 0;
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey) { zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, [event.offsetX, event.offsetY]); return; }
  // A notch of a wheel is one slice; a touch pad sends many small steps.
  wheel = event.deltaMode || Math.abs(event.deltaY) >= 50 ? Math.sign(event.deltaY) * 40 : wheel + event.deltaY;
  if (Math.abs(wheel) >= 40) {
    goTo(view.z - Math.trunc(wheel / 40));
    wheel = 0;
  }
}, { passive: false });

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

canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointermove", (event) => {
  view.pointer = [event.offsetX, event.offsetY];
  if (event.buttons & 1 && event.shiftKey || event.buttons & 4) {
    view.panX += event.movementX;
    view.panY += event.movementY;
  } else if (event.buttons & 1) {
    const pace = view.width / 400;
    setWindow(view.level + 2 * pace * event.movementY, view.width + 2 * pace * event.movementX, true);
  }
  redraw();
});
canvas.addEventListener("pointerleave", () => { view.pointer = null; redraw(); });

const toggleBoxes = () => { view.boxes = get("boxes").checked; redraw(); };
const actions = {
  ArrowDown: () => goTo(view.z - 1), ArrowUp: () => goTo(view.z + 1),
  PageDown: () => goTo(view.z - 10), PageUp: () => goTo(view.z + 10),
  Home: () => goTo(depth - 1), End: () => goTo(0),
  n: () => chooseNext(1), ArrowRight: () => chooseNext(1), p: () => chooseNext(-1), ArrowLeft: () => chooseNext(-1),
  1: () => usePreset(0, true), 2: () => usePreset(1, true), 3: () => usePreset(2, true),
  "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8), 0: fit,
  b: () => { get("boxes").checked = !get("boxes").checked; toggleBoxes(); },
  "Shift n": () => nextUndecided(1), "Shift p": () => nextUndecided(-1),
  a: () => decide("accepted"), u: () => decide("uncertain"), x: () => decide("rejected"), c: () => { if (view.chosen) comment.focus(); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
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
    action();
  }
});

get("slice").addEventListener("input", (event) => goTo(depth - 1 - Number(event.target.value)));
get("level").addEventListener("input", (event) => setWindow(Number(event.target.value), view.width, true));
get("width").addEventListener("input", (event) => setWindow(view.level, Number(event.target.value), true));
presets.forEach((button, index) => button.addEventListener("click", () => usePreset(index, true)));
get("zoomin").addEventListener("click", () => zoomBy(1.25));
get("zoomout").addEventListener("click", () => zoomBy(0.8));
get("fit").addEventListener("click", fit);
get("boxes").addEventListener("change", toggleBoxes);
threshold.addEventListener("input", applyFilters);
new ResizeObserver(() => { sizeOverview(); redraw(); }).observe(canvas);

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
applyFilters();
const first = data.lesions.find(shown);
if (first) choose(first);
else goTo(Math.floor(depth / 2));
canvas.focus({ preventScroll: true });

// Some browsers change what scripts read from pictures, against fingerprinting.
reading.fillStyle = "#404040";
reading.fillRect(0, 0, 2, 2);
if (Math.abs(reading.getImageData(1, 1, 1, 1).data[0] - 64) > 2) {
  get("none").hidden = false;
  get("none").textContent = "This browser alters pictures that a page reads (protection against fingerprinting): allow it for this file, or use another browser.";
}
