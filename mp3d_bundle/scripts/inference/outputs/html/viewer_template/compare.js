// ---- two scans on one grid, scrolled together ----

const [depth, height, width] = data.shape;
const [stepX, stepY] = data.spacing;
const NOTICE = "Not a medical device. Research use only.";
const COLOURS = { new: "#ff7a7a", grown: "#ff7a7a", gone: "#7fdc8a", shrunk: "#7fdc8a" };
const presets = [...document.querySelectorAll("[data-low]")];
const view = { z: 0, low: -160, high: 240, chosen: null };
const sides = ["before", "after"].map((name) => {
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [pictureWidth, pictureHeight];
  return { name, canvas: get(name), tile, letter: name === "before" ? "s" : "t" };
});

let due = false;
const redraw = () => {
  if (!due) {
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }
};
const draw = async () => {
  const z = view.z;
  // Both or none: the two must never show different slices.
  const values = await Promise.all(sides.map((side) => decode(`${side.letter}${z}`)));
  if (z !== view.z) return;
  sides.forEach((side, at) => paint(side, values[at]));
  get("status").textContent = `z ${data.heights[z].toFixed(1)} mm of the scan before`;
  document.body.dataset.shown = z;
};
const paint = (side, values) => {
  const { canvas, tile, name } = side;
  const dots = window.devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [Math.round(wide * dots), Math.round(high * dots)];
  const image = new ImageData(pictureWidth, pictureHeight);
  image.data.fill(255);
  for (let at = 0; at < values.length; at += 1) {
    image.data[4 * at] = image.data[4 * at + 1] = image.data[4 * at + 2] = 255 * (values[at] - view.low) / (view.high - view.low);
  }
  tile.getContext("2d").putImageData(image, 0, 0);
  const painting = canvas.getContext("2d");
  painting.setTransform(dots, 0, 0, dots, 0, 0);
  const scale = Math.min(wide / (width * stepX), high / (height * stepY));
  const [left, top] = [(wide - width * stepX * scale) / 2, (high - height * stepY * scale) / 2];
  painting.fillStyle = "#000";
  painting.fillRect(0, 0, wide, high);
  painting.drawImage(tile, left, top, width * stepX * scale, height * stepY * scale);
  painting.font = "600 13px 'Segoe UI', 'DejaVu Sans', Arial, sans-serif";
  painting.textBaseline = "middle";
  const write = (text, x, y, align, colour) => {
    painting.textAlign = align;
    painting.lineWidth = 3;
    painting.strokeStyle = "#000";
    painting.strokeText(text, x, y);
    painting.fillStyle = colour;
    painting.fillText(text, x, y);
    painting.textAlign = "left";
  };
  const labels = [];
  for (const change of data.changes) {
    const box = change[`${name}_box`];
    if (!box || box[2] >= view.z + 1 || box[5] <= view.z) continue;
    painting.strokeStyle = painting.fillStyle = change === view.chosen ? "#5ce1ff" : COLOURS[change.state] ?? "#ffd728";
    painting.lineWidth = change === view.chosen ? 2.5 : 1.5;
    const [x, y] = [left + box[0] * stepX * scale, top + box[1] * stepY * scale];
    const bottom = y + (box[4] - box[1]) * stepY * scale;
    painting.strokeRect(x, y, (box[3] - box[0]) * stepX * scale, bottom - y);
    // Above its box, or below it as far down as it takes to cover no other label.
    const text = `${change[name]}: ${change.state}`;
    const end = x + painting.measureText(text).width;
    const free = (place) => labels.every((other) => x > other.end || end < other.x || Math.abs(place - other.place) >= 15);
    const places = [y - 10, ...Array.from({ length: 12 }, (_, step) => bottom + 10 + 15 * step)];
    const place = places.find(free) ?? y - 10;
    labels.push({ x, end, place });
    write(text, x, place, "left", painting.fillStyle);
  }
  write(name === "before" ? "Before" : "After, aligned", 8, 14, "left", "#dfe3e8");
  write("R", 8, high / 2, "left", "#dfe3e8");
  write("L", wide - 8, high / 2, "right", "#dfe3e8");
  write(NOTICE, 8, high - 14, "left", "#ffb37a");
};

const goTo = (z) => {
  view.z = clamp(Math.floor(z), 0, depth - 1);
  get("slice").value = depth - 1 - view.z;
  redraw();
};
const choose = (change) => {
  view.chosen = change;
  const box = change.before_box ?? change.after_box;
  goTo((box[2] + box[5]) / 2);
};
const usePreset = (button) => {
  [view.low, view.high] = [Number(button.dataset.low), Number(button.dataset.high)];
  for (const other of presets) other.setAttribute("aria-pressed", String(other === button));
  redraw();
};

const pair = (one, other) => `${one ?? "–"} → ${other ?? "–"}`;
const millimetres = (value) => (value === null || value === undefined ? null : value.toFixed(1));
const numbered = data.changes.some((change) => (change.instance_number_before ?? change.instance_number_after ?? null) !== null);
const classed = data.changes.some((change) => "class_before" in change);
for (const title of [...(classed ? ["Class"] : []), ...(numbered ? ["Image"] : []), "z, mm"]) {
  const head = document.createElement("th");
  head.textContent = title;
  document.querySelector(".changes thead tr").append(head);
}
for (const change of data.changes) {
  const row = document.createElement("tr");
  const shown = (value) => (value === null ? "–" : value);
  const source = change.compared_by ? ` (${change.compared_by})` : "";
  const axes = `${pair(change.long_axis_before_mm, change.long_axis_after_mm)}${source}`;
  const { class_before: one, class_after: other } = change;
  const kinds = classed ? [one && other && one !== other ? pair(one, other) : one ?? other ?? "–"] : [];
  const places = [...kinds, ...(numbered ? [pair(change.instance_number_before, change.instance_number_after)] : []),
    pair(millimetres(change.z_before_mm), millimetres(change.z_after_mm))];
  const percent = change.change_percent === null ? "–" : `${change.change_percent > 0 ? "+" : ""}${change.change_percent} %`;
  for (const [at, text] of [shown(change.before), shown(change.after), change.state, axes, percent, ...places].entries()) {
    const cell = document.createElement("td");
    if (at === 2) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => choose(change));
      cell.append(button);
    } else {
      cell.textContent = text;
    }
    row.append(cell);
  }
  get("changes").append(row);
}
const keys = { ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: depth, End: -depth };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in keys) goTo(view.z + keys[event.key]);
  else if (presets[event.key - 1]) usePreset(presets[event.key - 1]);
  else return;
  event.preventDefault();
});
for (const { canvas } of sides) {
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); goTo(view.z - Math.sign(event.deltaY)); }, { passive: false });
  new ResizeObserver(redraw).observe(canvas);
}
get("slice").max = depth - 1;
get("slice").addEventListener("input", (event) => goTo(depth - 1 - Number(event.target.value)));
for (const button of presets) button.addEventListener("click", () => usePreset(button));
usePreset(presets[1]);
if (data.changes.length) choose(data.changes[0]);
else goTo(depth / 2);
get("before").focus({ preventScroll: true });
