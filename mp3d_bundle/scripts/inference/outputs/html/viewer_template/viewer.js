const get = (id) => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
const [depth, height, width] = data.shape;
const [stepX, stepY, stepZ] = data.spacing;
const [pictureWidth, pictureHeight, secondRow] = data.picture;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const KEEP = 64; // decoded slices held in memory
const AHEAD = 6; // slices decoded before they are asked for

// Slices as the archive counts its images, otherwise as stored.
const called = (z) => (data.images && data.images[z] !== null ? `image ${data.images[z]}` : `slice ${data.numbers[z]}`);
const Called = (z) => called(z).replace(/^./, (letter) => letter.toUpperCase());
const atHeight = (z) => `z ${data.heights[z].toFixed(1)} mm`;

// ---- Hounsfield units from the two pictures of a slice ----

const interpolate = (grey, knots) => {
  let last = 1;
  while (last < knots.length - 1 && grey > knots[last][1]) last += 1;
  const [[low, from], [high, to]] = [knots[last - 1], knots[last]];
  return low + (high - low) * (grey - from) / (to - from);
};
const greys = [...Array(256).keys()];
const fineHu = Float32Array.from(greys, (grey) => data.fine[0] + (data.fine[1] - data.fine[0]) * grey / 255);
const coarseHu = Float32Array.from(greys, (grey) => interpolate(grey, data.coarse));
// How far the fine picture counts where the coarse one shows a value.
const fineShare = coarseHu.map((hu) => {
  const [outerLow, innerLow, innerHigh, outerHigh] = data.blend;
  return clamp(Math.min((hu - outerLow) / (innerLow - outerLow), (outerHigh - hu) / (outerHigh - innerHigh)), 0, 1);
});

const scratch = document.createElement("canvas");
scratch.width = pictureWidth;
scratch.height = secondRow + pictureHeight;
const reading = scratch.getContext("2d", { willReadFrequently: true });

const decode = async (z) => {
  const picture = new Image();
  picture.src = "data:image/jpeg;base64," + get("s" + z).textContent;
  await picture.decode();
  reading.drawImage(picture, 0, 0);
  const pixels = reading.getImageData(0, 0, pictureWidth, secondRow + pictureHeight).data;
  const hu = new Int16Array(pictureWidth * pictureHeight);
  const second = 4 * secondRow * pictureWidth;
  for (let at = 0; at < hu.length; at += 1) {
    const coarse = pixels[second + 4 * at];
    const base = coarseHu[coarse];
    hu[at] = base + fineShare[coarse] * (fineHu[pixels[4 * at]] - base);
  }
  return hu;
};

const slices = new Map(); // slice -> values, the one used last at the end
const coming = new Map(); // slice -> promise
const load = (z) => {
  if (slices.has(z)) return Promise.resolve();
  if (!coming.has(z)) {
    coming.set(z, decode(z).then((hu) => {
      slices.set(z, hu);
      if (slices.size > KEEP) slices.delete(slices.keys().next().value);
    }).catch((error) => { get("status").textContent = `${Called(z)} cannot be shown: ${error.message}`; })
      .finally(() => coming.delete(z)));
  }
  return coming.get(z);
};

// ---- what is shown ----

const view = { z: 0, down: 1, level: 40, width: 400, ownWindow: false, zoom: 1, panX: 0, panY: 0, boxes: true, chosen: null, pointer: null };
const canvas = get("image");
const painting = canvas.getContext("2d");
const slice = document.createElement("canvas");
slice.width = pictureWidth;
slice.height = pictureHeight;
const slicePainting = slice.getContext("2d");
const sliceImage = slicePainting.createImageData(pictureWidth, pictureHeight);
sliceImage.data.fill(255);
let greyOf = null; // display grey by value + 2000

const setWindow = (level, windowWidth, own) => {
  view.level = clamp(Math.round(level), -1500, 2000);
  view.width = clamp(Math.round(windowWidth), 2, 4000);
  view.ownWindow = view.ownWindow || own;
  greyOf = Uint8ClampedArray.from({ length: 5000 }, (_, at) => 255 * (at - 2000 - view.level + view.width / 2) / view.width);
  get("level").value = view.level;
  get("levelvalue").textContent = view.level;
  get("width").value = view.width;
  get("widthvalue").textContent = view.width;
  for (const button of presets) {
    const [low, high] = [Number(button.dataset.low), Number(button.dataset.high)];
    button.setAttribute("aria-pressed", String(view.level * 2 === low + high && view.width === high - low));
  }
  redraw();
};

const presets = [...document.querySelectorAll("[data-low]")];
const usePreset = (index, own) => {
  const [low, high] = [Number(presets[index].dataset.low), Number(presets[index].dataset.high)];
  setWindow((low + high) / 2, high - low, own);
};


const goTo = (z) => {
  const next = clamp(z, 0, depth - 1);
  view.down = next > view.z ? -1 : 1;
  view.z = next;
  get("slice").value = depth - 1 - next;
  redraw();
};

const choose = (lesion) => {
  view.chosen = lesion;
  if (!view.ownWindow) usePreset(lesion.preset, false);
  if (view.zoom > 1) {
    const scale = fitScale() * view.zoom;
    view.panX = scale * stepX * (width / 2 - (lesion.box[0] + lesion.box[3]) / 2);
    view.panY = scale * stepY * (height / 2 - (lesion.box[1] + lesion.box[4]) / 2);
  }
  for (const other of data.lesions) other.button.setAttribute("aria-current", String(other === lesion));
  // Scroll the list, not the page.
  const [list, item] = [get("lesions"), lesion.button.parentElement];
  list.scrollTop = clamp(list.scrollTop, item.offsetTop + item.offsetHeight - list.clientHeight, item.offsetTop);
  showReview();
  goTo(lesion.key);
};

// ---- drawing ----

// CSS pixels per mm at which the whole slice fits.
const fitScale = () => Math.min(canvas.clientWidth / (width * stepX), canvas.clientHeight / (height * stepY));
// Position of the slice on the canvas, and pixels per column and row.
const frame = () => {
  const scale = fitScale() * view.zoom;
  const [perColumn, perRow] = [scale * stepX, scale * stepY];
  return {
    left: (canvas.clientWidth - width * perColumn) / 2 + view.panX,
    top: (canvas.clientHeight - height * perRow) / 2 + view.panY,
    perColumn, perRow, scale,
  };
};

let due = false;
const redraw = () => {
  if (!due) {
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }
};

const draw = () => {
  const z = view.z;
  const hu = slices.get(z);
  if (!hu) { // the picture before stays until this one is there
    load(z).then(() => { if (view.z === z && slices.has(z)) redraw(); });
    return;
  }
  slices.delete(z);
  slices.set(z, hu);
  const dots = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(canvas.clientWidth * dots), Math.round(canvas.clientHeight * dots)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  const pixels = sliceImage.data;
  for (let at = 0; at < hu.length; at += 1) pixels[4 * at] = pixels[4 * at + 1] = pixels[4 * at + 2] = greyOf[hu[at] + 2000];
  slicePainting.putImageData(sliceImage, 0, 0);
  painting.setTransform(dots, 0, 0, dots, 0, 0);
  painting.fillStyle = "#000";
  painting.fillRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  painting.imageSmoothingQuality = "high";
  const place = frame();
  painting.drawImage(slice, place.left, place.top, width * place.perColumn, height * place.perRow);
  const here = data.lesions.filter((lesion) => shown(lesion) && lesion.box[2] < z + 1 && lesion.box[5] > z);
  if (view.boxes) drawLesions(here, z, place);
  drawTexts(hu, place);
  drawOverview();
  const list = here.map((lesion) => `${lesion.number} (${lesion.score.toFixed(2)})`).join(", ");
  const range = data.images ? `slice ${data.numbers[z]} of 0 to ${depth - 1}` : `0 to ${depth - 1}`;
  get("status").textContent = `${Called(z)} (${range}), ${atHeight(z)}` +
    (list ? `; lesion ${list}` : "");
  document.body.dataset.shown = z;
  document.body.dataset.window = `${view.level} ${view.width}`;
  loadAhead(z, view.down);
};

// One after the other, so that a jump does not wait for slices that are no longer needed.
const loadAhead = async (z, down) => {
  for (let next = 1; next <= AHEAD && view.z === z; next += 1) {
    const ahead = z - down * next;
    if (ahead >= 0 && ahead < depth) await load(ahead);
  }
};

const colourOf = (lesion) => (lesion === view.chosen ? "#5ce1ff" : decisionOf(lesion) === "rejected" ? "#9aa0a8" : "#ffd728");
const overlap = (one, other) =>
  Math.max(0, Math.min(one[2], other[2]) - Math.max(one[0], other[0])) * Math.max(0, Math.min(one[3], other[3]) - Math.max(one[1], other[1]));

// Boxes first, then their labels; the chosen lesion is on top and its label is placed first.
const drawLesions = (here, z, place) => {
  const order = [...here.filter((lesion) => lesion === view.chosen), ...here.filter((lesion) => lesion !== view.chosen)];
  const boxes = new Map(order.map((lesion) => [lesion, boxOn(lesion, z, place)]));
  for (const lesion of [...order].reverse()) drawBox(lesion, boxes.get(lesion));
  painting.font = "600 13px 'Segoe UI', 'DejaVu Sans', Arial, sans-serif";
  painting.textAlign = "left";
  painting.textBaseline = "middle";
  const taken = [];
  for (const lesion of order) taken.push(drawLabel(lesion, boxes.get(lesion), taken));
};

// Edges on the canvas (left, top, right, bottom), and whether the box was found on this very slice.
const boxOn = (lesion, z, place) => {
  let at = 0;
  lesion.members.forEach((member, next) => { if (Math.abs(member[0] - z) < Math.abs(lesion.members[at][0] - z)) at = next; });
  const [position, x1, y1, x2, y2] = lesion.members[at];
  return {
    lines: lesion.lines[at].map((line) => line.map(([x, y]) => [place.left + x * place.perColumn, place.top + y * place.perRow])),
    edges: [place.left + x1 * place.perColumn, place.top + y1 * place.perRow, place.left + x2 * place.perColumn, place.top + y2 * place.perRow],
    found: Math.abs(position - z) <= data.thickness / 2 + 0.5,
  };
};

// The outline and axes where the network gives them, else the box.
const drawBox = (lesion, { edges: [left, top, right, bottom], lines, found }) => {
  const chosen = lesion === view.chosen;
  painting.setLineDash(found ? [] : [5, 4]);
  for (const [colour, thick] of [["rgba(0, 0, 0, 0.7)", chosen ? 4 : 3], [colourOf(lesion), chosen ? 2 : 1.4]]) {
    painting.strokeStyle = colour;
    painting.lineWidth = thick;
    if (!lines.length) painting.strokeRect(left - 1, top - 1, right - left + 2, bottom - top + 2);
    for (const line of lines) {
      painting.beginPath();
      for (const [x, y] of line) painting.lineTo(x, y);
      painting.stroke();
    }
  }
  painting.setLineDash([]);
};

const drawLabel = (lesion, { edges: [left, top, right, bottom] }, taken) => {
  const label = `${lesion.number}: ${lesion.score.toFixed(2)}`;
  const [wide, high] = [painting.measureText(label).width + 8, 18];
  const places = [[left - 2, top - high - 3], [left - 2, bottom + 3], [right + 2 - wide, top - high - 3], [right + 2 - wide, bottom + 3],
    [right + 4, top - 2], [left - wide - 4, top - 2], [right + 4, bottom - high + 2], [left - wide - 4, bottom - high + 2]]
    .map(([x, y]) => [x, y, x + wide, y + high]);
  const canvasArea = [0, 0, canvas.clientWidth, canvas.clientHeight];
  // The first place on the canvas that covers no other label, or otherwise the best one.
  const cost = (box) => taken.reduce((sum, other) => sum + overlap(box, other), 0) + 2 * (wide * high - overlap(box, canvasArea));
  const best = places.reduce((one, other) => (cost(other) < cost(one) - 1 ? other : one));
  painting.fillStyle = "rgba(0, 0, 0, 0.65)";
  painting.fillRect(best[0], best[1], wide, high);
  painting.fillStyle = colourOf(lesion);
  painting.fillText(label, best[0] + 4, best[1] + 9.5);
  return best;
};

const write = (text, x, y, align, colour) => {
  painting.textAlign = align;
  painting.lineWidth = 3;
  painting.strokeStyle = "rgba(0, 0, 0, 0.8)";
  painting.strokeText(text, x, y);
  painting.fillStyle = colour || "#dfe3e8";
  painting.fillText(text, x, y);
};

const drawTexts = (hu, place) => {
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  painting.textBaseline = "middle";
  painting.font = "600 16px 'Segoe UI', 'DejaVu Sans', Arial, sans-serif";
  write("R", 8, high / 2, "left");
  write("L", wide - 8, high / 2, "right");
  write("A", wide / 2, 14, "center");
  write("P", wide / 2, high - 14, "center");
  painting.font = "13px 'Segoe UI', 'DejaVu Sans', Arial, sans-serif";
  write(`${Called(view.z)}  ${atHeight(view.z)}`, 8, 14, "left");
  write(`L ${view.level}  W ${view.width}`, wide - 8, 14, "right");
  write("Not a medical device. Research use only.", 8, high - 14, "left", "#ffb37a");
  // A bar of 5 cm, or 1 cm when zoomed in.
  const long = 50 * place.scale < wide / 3 ? 50 : 10;
  const [right, y] = [wide - 12, high - 28];
  painting.fillStyle = "#000";
  painting.fillRect(right - long * place.scale - 1, y - 2, long * place.scale + 2, 4);
  painting.fillStyle = "#dfe3e8";
  painting.fillRect(right - long * place.scale, y - 1, long * place.scale, 2);
  write(`${long / 10} cm`, right, high - 14, "right");
  if (view.pointer) {
    const x = Math.floor((view.pointer[0] - place.left) / (width * place.perColumn) * pictureWidth);
    const row = Math.floor((view.pointer[1] - place.top) / (height * place.perRow) * pictureHeight);
    if (x >= 0 && row >= 0 && x < pictureWidth && row < pictureHeight) {
      write(`about ${hu[row * pictureWidth + x]} HU`, wide - 8, 34, "right");
    }
  }
};

// ---- overview ----

const SVG = "http://www.w3.org/2000/svg";
const views = [["coronal", width, stepX, 0], ["sagittal", height, stepY, 1]].map(([id, count, step, axis]) => {
  const element = get(id);
  const svg = element.querySelector("svg");
  svg.setAttribute("viewBox", `0 0 ${count * step} ${depth * stepZ}`);
  const line = document.createElementNS(SVG, "line");
  line.setAttribute("x2", count * step);
  svg.append(line);
  return { element, svg, line, count, step, axis, marks: new Map() };
});
for (const one of views) {
  for (const lesion of [...data.lesions].reverse()) {
    const mark = document.createElementNS(SVG, "rect");
    const [low, end] = [lesion.box[one.axis] * one.step, lesion.box[one.axis + 3] * one.step];
    mark.setAttribute("x", low);
    mark.setAttribute("width", end - low);
    mark.setAttribute("y", (depth - lesion.box[5]) * stepZ);
    mark.setAttribute("height", (lesion.box[5] - lesion.box[2]) * stepZ);
    one.svg.append(mark);
    one.marks.set(lesion, mark);
  }
  const jump = (event, exact) => {
    const area = one.element.getBoundingClientRect();
    const mm = [(event.clientX - area.left) / area.width * one.count * one.step, (event.clientY - area.top) / area.height * depth * stepZ];
    const margin = 6 / area.width * one.count * one.step;
    const hit = (lesion) => mm[0] > lesion.box[one.axis] * one.step - margin && mm[0] < lesion.box[one.axis + 3] * one.step + margin &&
      mm[1] > (depth - lesion.box[5]) * stepZ - margin && mm[1] < (depth - lesion.box[2]) * stepZ + margin;
    // The smallest one, so that a large one hides none.
    const sizeOf = (lesion) => (lesion.box[one.axis + 3] - lesion.box[one.axis]) * (lesion.box[5] - lesion.box[2]);
    const lesion = exact && data.lesions.filter((other) => shown(other) && hit(other)).sort((first, second) => sizeOf(first) - sizeOf(second))[0];
    if (lesion) choose(lesion);
    else goTo(depth - 1 - Math.floor(mm[1] / stepZ));
  };
  one.element.addEventListener("pointerdown", (event) => { one.element.setPointerCapture(event.pointerId); jump(event, true); event.preventDefault(); });
  one.element.addEventListener("pointermove", (event) => { if (event.buttons & 1) jump(event, false); });
}
// Side by side, or one below the other where that shows more (short scans).
const sizeOverview = () => {
  const box = document.querySelector(".overview");
  const [wide, deep, long] = [width * stepX, height * stepY, depth * stepZ];
  const beside = Math.min((box.clientWidth - 12) / (wide + deep), 380 / long);
  const below = Math.min(box.clientWidth / Math.max(wide, deep), 190 / long);
  const stacked = below > 1.3 * beside;
  box.classList.toggle("below", stacked);
  const scale = stacked ? below : beside;
  for (const one of views) {
    one.element.style.width = `${Math.max(24, one.count * one.step * scale)}px`;
    one.element.style.height = `${Math.max(24, long * scale)}px`;
  }
};
const drawOverview = () => {
  const y = (depth - view.z - 0.5) * stepZ;
  for (const one of views) {
    one.line.setAttribute("y1", y);
    one.line.setAttribute("y2", y);
    for (const [lesion, mark] of one.marks) {
      mark.style.display = view.boxes && shown(lesion) ? "" : "none";
      mark.classList.toggle("chosen", lesion === view.chosen);
    }
  }
};
