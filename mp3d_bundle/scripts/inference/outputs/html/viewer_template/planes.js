// ---- planes: axial, coronal and sagittal through the voxel under the crosshair ----

// Axes 0, 1, 2 run to the patient's left, back and head; pictures have the head up.
const makePlane = (id, name, across, down, sides) => {
  const element = get(id);
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [[pictureWidth, pictureHeight], [columns, depth], [rows, depth]][across + down - 1];
  const context = tile.getContext("2d");
  const image = context.createImageData(tile.width, tile.height);
  image.data.fill(255);
  return { name, across, down, through: 3 - across - down, sides, element, tile, context, image, values: null, drawn: "" };
};
const axial = makePlane("image", "axial", 0, 1, "RLAP");
const coronal = makePlane("coronalplane", "coronal", 0, 2, "RLHF");
const sagittal = makePlane("sagittalplane", "sagittal", 1, 2, "APHF");
const planes = [axial, coronal, sagittal];
const canvas = axial.element;
view.plane = axial;
const indexIn = (plane) => view.point[plane.through];
const toLps = (point) => data.affine.map((row) => row[3] + row.slice(0, 3).reduce((sum, one, axis) => sum + one * (point[axis] - 0.5), 0));

// Values of a plane as its tile has them; null for an axial slice that is not decoded yet.
const valuesOf = (plane, index) => {
  if (plane === axial) return slices.get(index) ?? null;
  const values = new Int16Array(plane.tile.width * depth).fill(-2000);
  const at = Math.min(Math.floor((index + 0.5) / COUNT[plane.through] * (plane === coronal ? rows : columns)), (plane === coronal ? rows : columns) - 1);
  for (let z = 0; z < depth; z += 1) {
    const [from, to] = [z * rows * columns, (depth - 1 - z) * plane.tile.width];
    if (!filled[z]) continue;
    if (plane === coronal) values.set(volume.subarray(from + at * columns, from + (at + 1) * columns), to);
    else for (let row = 0; row < rows; row += 1) values[to + row] = volume[from + row * columns + at];
  }
  return values;
};

// CSS pixels per mm at which the whole plane fits.
const fitScale = (plane, [wide, high] = sizeOf(plane)) =>
  Math.min(wide / (COUNT[plane.across] * STEP[plane.across]), high / (COUNT[plane.down] * STEP[plane.down]));
const sizeOf = (plane) => [plane.element.clientWidth, plane.element.clientHeight];
// Position of a plane in its picture, and pixels per voxel across and down. All zoom together.
const frameOf = (plane, [wide, high] = sizeOf(plane)) => {
  const scale = fitScale(plane, [wide, high]) * view.zoom;
  const [perAcross, perDown] = [scale * STEP[plane.across], scale * STEP[plane.down]];
  const place = { perAcross, perDown, scale, left: (wide - COUNT[plane.across] * perAcross) / 2, top: (high - COUNT[plane.down] * perDown) / 2 };
  if (plane === axial) return { ...place, left: place.left + view.panX, top: place.top + view.panY };
  if (view.zoom === 1) return place;
  const [x, y] = onScreen(plane, place, view.point.map((one) => one + 0.5));
  return { ...place, left: place.left + wide / 2 - x, top: place.top + high / 2 - y };
};
const fromTop = (plane, edge) => (plane.down === 2 ? depth - edge : edge);
const onScreen = (plane, place, point) => [place.left + point[plane.across] * place.perAcross, place.top + fromTop(plane, point[plane.down]) * place.perDown];
const pointAt = (plane, [x, y]) => {
  const place = frameOf(plane);
  const point = view.point.map((one) => one + 0.5);
  point[plane.across] = clamp((x - place.left) / place.perAcross, 0, COUNT[plane.across] - 0.001);
  point[plane.down] = clamp(fromTop(plane, (y - place.top) / place.perDown), 0, COUNT[plane.down] - 0.001);
  return point;
};
// The pixel of the tile at a point.
const pixelAt = (plane, point) => [point[plane.across] / COUNT[plane.across] * plane.tile.width, fromTop(plane, point[plane.down]) / COUNT[plane.down] * plane.tile.height];

let due = false;
const redraw = () => {
  if (!due) {
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }
};

// The number of a lesion, with its class where the network distinguishes several.
const named = (lesion) => lesion.number + (lesion.entry.class ? ` ${lesion.entry.class.slice(0, 24)}` : "");
const draw = () => {
  const z = view.z;
  const hu = slices.get(z);
  if (!hu) { // the pictures before stay until this one is there
    load(z).then(() => { if (view.z === z && slices.has(z)) redraw(); });
    return;
  }
  slices.delete(z);
  slices.set(z, hu);
  show(axial);
  drawOverview();
  const list = lesionsIn(axial).map((lesion) => `${named(lesion)} (${lesion.score.toFixed(2)})`).join(", ");
  const range = data.images ? `slice ${data.numbers[z]} of 0 to ${depth - 1}` : `0 to ${depth - 1}`;
  get("status").textContent = `${Called(z)} (${range}), ${atHeight(z)}` +
    (list ? `; lesion ${list}` : "");
  document.body.dataset.shown = z;
  document.body.dataset.window = `${view.level} ${view.width}`;
  // The planes across follow when no further picture is waiting: they hold up no slice.
  requestAnimationFrame(() => { if (!due) drawAcross(); });
  loadAhead(z, view.down);
};
const drawAcross = () => {
  for (const plane of [coronal, sagittal]) {
    show(plane);
    plane.element.setAttribute("aria-label", `${plane.name} plane, ${positionOf(plane)}`);
  }
  document.body.dataset.zoom = view.zoom.toFixed(2);
  document.body.dataset.point = view.point.join(" ");
};
const show = (plane) => {
  const dots = window.devicePixelRatio || 1;
  const [wide, high] = sizeOf(plane).map((side) => Math.round(side * dots));
  if (!wide || !high) return;
  if (plane.element.width !== wide || plane.element.height !== high) [plane.element.width, plane.element.height] = [wide, high];
  const painting = plane.element.getContext("2d");
  painting.setTransform(dots, 0, 0, dots, 0, 0);
  paint(plane, painting, sizeOf(plane));
};

// A plane with all that is on it.
const paint = (plane, painting, size) => {
  const index = indexIn(plane);
  const state = [index, view.level, view.width, view.invert, plane === axial ? "" : decoded].join();
  if (plane.drawn !== state) {
    plane.drawn = state;
    plane.values = valuesOf(plane, index);
    const [pixels, values] = [plane.image.data, plane.values];
    for (let at = 0; at < values.length; at += 1) pixels[4 * at] = pixels[4 * at + 1] = pixels[4 * at + 2] = greyOf[values[at] + 2000];
    plane.context.putImageData(plane.image, 0, 0);
  }
  painting.fillStyle = "#000";
  painting.fillRect(0, 0, ...size);
  painting.imageSmoothingQuality = "high";
  const place = frameOf(plane, size);
  painting.drawImage(plane.tile, place.left, place.top, COUNT[plane.across] * place.perAcross, COUNT[plane.down] * place.perDown);
  if (view.crosshair) drawCrosshair(plane, painting, place, size);
  if (view.boxes) drawLesions(plane, painting, place, size);
  drawMeasurements(plane, painting, place, size);
  drawTexts(plane, painting, place, size);
};

// One after the other, so that a jump does not wait for slices that are no longer needed.
const loadAhead = async (z, down) => {
  for (let next = 1; next <= AHEAD && view.z === z; next += 1) {
    const ahead = z - down * next;
    if (ahead >= 0 && ahead < depth) await load(ahead);
  }
};
// Then all slices for the planes across them, the nearest ones first.
let decoded = 0;
const decodeAll = async () => {
  const left = new Set(Array(depth).keys());
  while (left.size) {
    const z = [...left].reduce((best, one) => (Math.abs(one - view.z) < Math.abs(best - view.z) ? one : best));
    left.delete(z);
    if (!filled[z]) await load(z);
    decoded += 1;
    if (decoded % 16 === 0 || !left.size) redraw();
    await new Promise((done) => setTimeout(done, 0));
  }
  document.body.dataset.decoded = decoded;
};

const colourOf = (lesion) => (lesion === view.chosen ? "#5ce1ff" : decisionOf(lesion) === "rejected" ? "#9aa0a8" : "#ffd728");
const overlap = (one, other) =>
  Math.max(0, Math.min(one[2], other[2]) - Math.max(one[0], other[0])) * Math.max(0, Math.min(one[3], other[3]) - Math.max(one[1], other[1]));
const lesionsIn = (plane) => data.lesions.filter((lesion) =>
  shown(lesion) && lesion.box[plane.through] < indexIn(plane) + 1 && lesion.box[plane.through + 3] > indexIn(plane));

// Boxes first, then their labels; the chosen lesion is on top and its label is placed first.
const drawLesions = (plane, painting, place, size) => {
  const here = lesionsIn(plane);
  const order = [...here.filter((lesion) => lesion === view.chosen), ...here.filter((lesion) => lesion !== view.chosen)];
  const boxes = new Map(order.map((lesion) => [lesion, boxOn(plane, lesion, place)]));
  for (const lesion of [...order].reverse()) drawBox(painting, lesion, boxes.get(lesion));
  painting.font = font(plane === axial ? 13 : 11, 600);
  painting.textAlign = "left";
  painting.textBaseline = "middle";
  const taken = [];
  // Boxes of many slices lie behind each other in the planes across: their labels would cover the body.
  const labelled = plane === axial ? order : order.filter((lesion) => lesion === view.chosen);
  for (const lesion of labelled) taken.push(drawLabel(painting, lesion, boxes.get(lesion), taken, size));
};

// Edges in the picture (left, top, right, bottom), and whether the box was found on this very slice.
const boxOn = (plane, lesion, place) => {
  const screen = (x, y) => onScreen(plane, place, [x, y, 0]);
  if (plane !== axial) {
    const [low, high] = [lesion.box.slice(0, 3), lesion.box.slice(3)].map((corner) => onScreen(plane, place, corner));
    return { lines: [], edges: [low[0], high[1], high[0], low[1]], found: true };
  }
  let at = 0;
  lesion.members.forEach((member, next) => { if (Math.abs(member[0] - view.z) < Math.abs(lesion.members[at][0] - view.z)) at = next; });
  const [position, x1, y1, x2, y2] = lesion.members[at];
  return {
    lines: lesion.lines[at].map((line) => line.map(([x, y]) => screen(x, y))),
    edges: [...screen(x1, y1), ...screen(x2, y2)],
    found: Math.abs(position - view.z) <= data.thickness / 2 + 0.5,
  };
};

// Lines on dark edges, so that they are seen on every grey.
const stroke = (painting, lines, colour, thick) => {
  for (const [shade, wide] of [["rgba(0, 0, 0, 0.7)", 2 * thick], [colour, thick]]) {
    painting.strokeStyle = shade;
    painting.lineWidth = wide;
    for (const line of lines) {
      painting.beginPath();
      for (const [x, y] of line) painting.lineTo(x, y);
      painting.stroke();
    }
  }
};
// The outline and axes where the network gives them, else the box.
const drawBox = (painting, lesion, { edges: [left, top, right, bottom], lines, found }) => {
  painting.setLineDash(found ? [] : [5, 4]);
  const box = [[left - 1, top - 1], [right + 1, top - 1], [right + 1, bottom + 1], [left - 1, bottom + 1], [left - 1, top - 1]];
  stroke(painting, lines.length ? lines : [box], colourOf(lesion), lesion === view.chosen ? 2 : 1.4);
  painting.setLineDash([]);
};

const drawLabel = (painting, lesion, { edges: [left, top, right, bottom] }, taken, size) => {
  const label = `${named(lesion)}: ${lesion.score.toFixed(2)}`;
  const [wide, high] = [painting.measureText(label).width + 8, 18];
  const places = [[left - 2, top - high - 3], [left - 2, bottom + 3], [right + 2 - wide, top - high - 3], [right + 2 - wide, bottom + 3],
    [right + 4, top - 2], [left - wide - 4, top - 2], [right + 4, bottom - high + 2], [left - wide - 4, bottom - high + 2]]
    .map(([x, y]) => [x, y, x + wide, y + high]);
  // The first place in the picture that covers no other label, or otherwise the best one.
  const cost = (box) => taken.reduce((sum, other) => sum + overlap(box, other), 0) + 2 * (wide * high - overlap(box, [0, 0, ...size]));
  const best = places.reduce((one, other) => (cost(other) < cost(one) - 1 ? other : one));
  painting.fillStyle = "rgba(0, 0, 0, 0.65)";
  painting.fillRect(best[0], best[1], wide, high);
  painting.fillStyle = colourOf(lesion);
  painting.fillText(label, best[0] + 4, best[1] + 9.5);
  return best;
};

// Open in the middle, so that it hides no lesion.
const drawCrosshair = (plane, painting, place, [wide, high]) => {
  const [x, y] = onScreen(plane, place, view.point.map((one) => one + 0.5));
  const gap = plane === axial ? 26 : 14;
  painting.strokeStyle = "rgba(127, 220, 138, 0.6)";
  painting.lineWidth = 1;
  painting.beginPath();
  for (const [from, to] of [[[0, y], [x - gap, y]], [[x + gap, y], [wide, y]], [[x, 0], [x, y - gap]], [[x, y + gap], [x, high]]]) {
    painting.moveTo(...from);
    painting.lineTo(...to);
  }
  painting.stroke();
};

const font = (pixels, weight = 400) => `${weight} ${pixels}px 'Segoe UI', 'DejaVu Sans', Arial, sans-serif`;
const write = (painting, text, x, y, align, colour = "#dfe3e8") => {
  painting.textAlign = align;
  painting.lineWidth = 3;
  painting.strokeStyle = "rgba(0, 0, 0, 0.8)";
  painting.strokeText(text, x, y);
  painting.fillStyle = colour;
  painting.fillText(text, x, y);
};

// Where a plane is: the image of an axial slice, and millimetres in the patient.
const positionOf = (plane) => (plane === axial ? `${Called(view.z)}  ${atHeight(view.z)}`
  : `${"xyz"[plane.through]} ${toLps(view.point.map((one) => one + 0.5))[plane.through].toFixed(1)} mm`);

const drawTexts = (plane, painting, place, [wide, high]) => {
  const size = plane === axial ? 13 : 11;
  const [left, right, top, bottom] = plane.sides;
  painting.textBaseline = "middle";
  painting.font = font(size + 3, 600);
  write(painting, left, 8, high / 2, "left");
  write(painting, right, wide - 8, high / 2, "right");
  write(painting, top, wide / 2, 14, "center");
  painting.font = font(size);
  write(painting, positionOf(plane), 8, 14, "left");
  // On a narrow picture the notice is smaller, then has two lines; the letter and the bar are above it.
  const room = (text) => painting.measureText(text).width;
  let notice = ["Not a medical device. Research use only."];
  if (room(notice[0]) > wide - 16) painting.font = font(size - 2);
  if (room(notice[0]) > wide - 16) notice = ["Not a medical device.", "Research use only."];
  const tall = 15 * notice.length;
  notice.forEach((line, row) => write(painting, line, 8, high + 1 - tall + 15 * row, "left", "#ffb37a"));
  const noticeEnd = 8 + Math.max(...notice.map(room));
  painting.font = font(size + 3, 600);
  write(painting, bottom, wide / 2, noticeEnd > wide / 2 - 12 ? high - 15 - tall : high - 14, "center");
  painting.font = font(size);
  const long = 50 * place.scale < wide / 3 ? 50 : 10;
  const [end, y] = [wide - 12, high - 28 - (noticeEnd > wide - 24 - long * place.scale ? tall : 0)];
  painting.fillStyle = "#000";
  painting.fillRect(end - long * place.scale - 1, y - 2, long * place.scale + 2, 4);
  painting.fillStyle = "#dfe3e8";
  painting.fillRect(end - long * place.scale, y - 1, long * place.scale, 2);
  write(painting, `${long / 10} cm`, end, y + 14, "right");
  if (plane !== axial) return;
  write(painting, `L ${view.level}  W ${view.width}${view.invert ? "  inverted" : ""}`, wide - 8, 14, "right");
  if (view.pointer && view.hover === axial) {
    const [column, row] = pixelAt(axial, view.pointer).map(Math.floor);
    write(painting, `about ${axial.values[row * pictureWidth + column]} HU`, wide - 8, 34, "right");
  }
};
