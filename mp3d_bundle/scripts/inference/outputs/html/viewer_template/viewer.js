// ---- slices ----

const [depth, height, width] = data.shape;
const [stepX, stepY, stepZ] = data.spacing;
const KEEP = 64; // decoded slices held in memory in full size
const STEP = [stepX, stepY, stepZ];
const COUNT = [width, height, depth];
const AHEAD = 6; // slices decoded before they are asked for

// Slices as the archive counts its images, otherwise as stored.
const called = (z) => (data.images && data.images[z] !== null ? `image ${data.images[z]}` : `slice ${data.numbers[z]}`);
const Called = (z) => called(z).replace(/^./, (letter) => letter.toUpperCase());
const atHeight = (z) => `z ${data.heights[z].toFixed(1)} mm`;

// All slices for the planes across them, in the plane every `thin`-th pixel if they would take more than 180 MB.
const thin = [1, 2, 4, 8].find((step) => step === 8 || 2 * pictureWidth * pictureHeight * depth / step ** 2 <= 180e6);
const [columns, rows] = [Math.ceil(pictureWidth / thin), Math.ceil(pictureHeight / thin)];
const volume = new Int16Array(columns * rows * depth);
const filled = new Uint8Array(depth);
const fill = (z, hu) => {
  const start = z * columns * rows;
  if (thin === 1) volume.set(hu, start);
  else for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) volume[start + row * columns + column] = hu[thin * (row * pictureWidth + column)];
  }
  filled[z] = 1;
};

const slices = new Map(); // slice -> values, the one used last at the end
const coming = new Map(); // slice -> promise
const load = (z) => {
  if (slices.has(z)) return Promise.resolve();
  if (!coming.has(z)) {
    coming.set(z, decode(`s${z}`).then((hu) => {
      if (!filled[z]) fill(z, hu);
      slices.set(z, hu);
      if (slices.size > KEEP) slices.delete(slices.keys().next().value);
    }).catch((error) => { get("status").textContent = `${Called(z)} cannot be shown: ${error.message}`; })
      .finally(() => coming.delete(z)));
  }
  return coming.get(z);
};

// ---- what is shown ----

const view = {
  point: [Math.floor(width / 2), Math.floor(height / 2), 0], // voxel under the crosshair: column, row, slice
  get z() { return this.point[2]; },
  down: 1, level: 40, width: 400, ownWindow: false, invert: false, custom: [40, 400],
  zoom: 1, panX: 0, panY: 0, boxes: true, crosshair: true, chosen: null, pointer: null, hover: null, plane: null, tool: "",
};
let greyOf = null; // display grey by value + 2000

const setWindow = (level, windowWidth, own) => {
  view.level = clamp(Math.round(level), -1500, 2000);
  view.width = clamp(Math.round(windowWidth), 2, 4000);
  view.ownWindow = view.ownWindow || own;
  const grey = (at) => 255 * (at - 2000 - view.level + view.width / 2) / view.width;
  greyOf = Uint8ClampedArray.from({ length: 5000 }, (_, at) => (view.invert ? 255 - grey(at) : grey(at)));
  get("level").value = view.level;
  get("levelvalue").textContent = view.level;
  get("width").value = view.width;
  get("widthvalue").textContent = view.width;
  let preset = false;
  for (const button of presets) {
    const [low, high] = [Number(button.dataset.low), Number(button.dataset.high)];
    const same = view.level * 2 === low + high && view.width === high - low;
    button.setAttribute("aria-pressed", String(same));
    preset ||= same;
  }
  if (own && !preset) view.custom = [view.level, view.width];
  get("custom").setAttribute("aria-pressed", String(!preset));
  redraw();
};

const presets = [...document.querySelectorAll("[data-low]")];
const usePreset = (index, own) => {
  const [low, high] = [Number(presets[index].dataset.low), Number(presets[index].dataset.high)];
  setWindow((low + high) / 2, high - low, own);
};

const goTo = (z) => moveTo([view.point[0], view.point[1], z]);
const moveTo = (point) => {
  const next = point.map((place, axis) => clamp(Math.floor(place), 0, COUNT[axis] - 1));
  if (next[2] !== view.z) view.down = next[2] > view.z ? -1 : 1;
  view.point = next;
  get("slice").value = depth - 1 - next[2];
  redraw();
};

const choose = (lesion) => {
  view.chosen = lesion;
  if (!view.ownWindow) usePreset(lesion.preset, false);
  const middle = [0, 1].map((axis) => (lesion.box[axis] + lesion.box[axis + 3]) / 2);
  if (view.zoom > 1) {
    const scale = fitScale(axial) * view.zoom;
    view.panX = scale * stepX * (width / 2 - middle[0]);
    view.panY = scale * stepY * (height / 2 - middle[1]);
  }
  for (const other of data.lesions) other.button.setAttribute("aria-current", String(other === lesion));
  // Scroll the list, not the page.
  const [list, item] = [get("lesions"), lesion.button.parentElement];
  list.scrollTop = clamp(list.scrollTop, item.offsetTop + item.offsetHeight - list.clientHeight, item.offsetTop);
  showReview();
  moveTo([...middle, lesion.key]);
};
