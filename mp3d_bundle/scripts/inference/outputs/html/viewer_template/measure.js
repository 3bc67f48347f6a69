// ---- measurements: two points for a ruler and an ellipse, four for two diameters, in the plane they were drawn in ----

const TOOLS = { ruler: 2, diameters: 4, roi: 2 };
let drawing = null; // begun, with fewer points than it needs
const tools = [...document.querySelectorAll("[data-tool]")];
const useTool = (tool) => {
  view.tool = view.tool === tool ? "" : tool;
  drawing = null;
  document.body.classList.toggle("measuring", view.tool !== "");
  for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === view.tool));
  redraw();
};
const millimetres = (from, to) => Math.hypot(...from.map((one, axis) => (one - to[axis]) * STEP[axis]));

// The pixels whose middle is in the ellipse between two corners: number, mean, standard deviation; area in mm².
const withinEllipse = (plane, [from, to]) => {
  const [[x1, y1], [x2, y2]] = [pixelAt(plane, from), pixelAt(plane, to)];
  const [x, y, wide, high] = [(x1 + x2) / 2, (y1 + y2) / 2, Math.abs(x2 - x1) / 2, Math.abs(y2 - y1) / 2];
  const found = [];
  for (let row = Math.floor(y - high); row <= y + high; row += 1) {
    for (let column = Math.floor(x - wide); column <= x + wide; column += 1) {
      const inside = ((column + 0.5 - x) / wide) ** 2 + ((row + 0.5 - y) / high) ** 2 <= 1;
      if (inside && column >= 0 && column < plane.tile.width && row >= 0 && row < plane.tile.height) found.push(plane.values[row * plane.tile.width + column]);
    }
  }
  const mean = found.reduce((sum, one) => sum + one, 0) / found.length;
  const spread = Math.sqrt(found.reduce((sum, one) => sum + (one - mean) ** 2, 0) / found.length);
  const sides = [plane.across, plane.down].map((axis) => Math.abs(to[axis] - from[axis]) * STEP[axis]);
  return { mean_hu: mean, sd_hu: spread, pixels: found.length, area_mm2: Math.PI / 4 * sides[0] * sides[1] };
};
const measure = (plane, tool, points) => {
  if (tool === "ruler") return { length_mm: millimetres(...points) };
  if (tool === "roi") return withinEllipse(plane, points);
  const lengths = [millimetres(points[0], points[1]), millimetres(points[2], points[3])];
  return { long_axis_mm: Math.max(...lengths), short_axis_mm: Math.min(...lengths) };
};
const inWords = ({ tool, numbers }) => {
  if (tool === "ruler") return `${numbers.length_mm.toFixed(1)} mm`;
  if (tool === "roi") return `mean about ${numbers.mean_hu.toFixed(0)} HU, SD ${numbers.sd_hu.toFixed(0)}, ${(numbers.area_mm2 / 100).toFixed(2)} cm²`;
  return `${numbers.long_axis_mm.toFixed(1)} × ${numbers.short_axis_mm.toFixed(1)} mm`;
};

const addPoint = (plane, point) => {
  if (!view.tool) return;
  if (drawing?.plane !== plane || drawing.index !== indexIn(plane)) drawing = { plane, index: indexIn(plane), points: [] };
  drawing.points.push(point);
  if (drawing.points.length === TOOLS[view.tool]) {
    const numbers = measure(plane, view.tool, drawing.points);
    if (view.tool === "roi" && !numbers.pixels) say("The ellipse is smaller than a pixel.");
    else {
      review.measurements.push({ tool: view.tool, plane: plane.name, index: drawing.index, lesion: view.chosen?.number ?? null, points: drawing.points, numbers });
      say(`${keep()}: ${view.tool}, ${inWords(review.measurements.at(-1))}.`);
      listMeasurements();
    }
    drawing = null;
  } else {
    say(`${view.tool}: point ${drawing.points.length} of ${TOOLS[view.tool]}.`);
  }
  redraw();
};

const shapeOf = (tool, points) => {
  if (tool !== "roi") return [points.slice(0, 2), points.slice(2)].filter((line) => line.length === 2);
  const [[x1, y1], [x2, y2]] = points;
  const turns = [...Array(49).keys()].map((step) => step * Math.PI / 24);
  return [turns.map((turn) => [(x1 + x2 + Math.cos(turn) * (x2 - x1)) / 2, (y1 + y2 + Math.sin(turn) * (y2 - y1)) / 2])];
};
const drawMeasurements = (plane, painting, place, [wide]) => {
  const here = review.measurements.filter((one) => one.plane === plane.name && one.index === indexIn(plane));
  painting.font = font(12, 600);
  painting.textBaseline = "middle";
  for (const one of here) {
    const points = one.points.map((point) => onScreen(plane, place, point));
    stroke(painting, shapeOf(one.tool, points), "#ff9be8", 1.5);
    const [text, [x, y]] = [inWords(one), points[1]];
    const fits = x + 8 + painting.measureText(text).width < wide;
    write(painting, text, fits ? x + 8 : x - 8, y, fits ? "left" : "right", "#ff9be8");
  }
  if (drawing?.plane !== plane || drawing.index !== indexIn(plane)) return;
  const points = [...drawing.points, ...(view.pointer && view.hover === plane ? [view.pointer] : [])].map((point) => onScreen(plane, place, point));
  if (points.length > 1) stroke(painting, shapeOf(view.tool, points), "#ff9be8", 1.5);
  for (const [x, y] of points) stroke(painting, [[[x - 4, y], [x + 4, y]], [[x, y - 4], [x, y + 4]]], "#ff9be8", 1.5);
};

const listMeasurements = () => {
  get("measured").replaceChildren(...review.measurements.map((one) => {
    const [item, jump, remove] = [document.createElement("li"), document.createElement("button"), document.createElement("button")];
    [jump.type, remove.type] = ["button", "button"];
    jump.textContent = `${one.lesion === null ? "" : `lesion ${one.lesion}: `}${one.tool}, ${one.plane}: ${inWords(one)}`;
    jump.addEventListener("click", () => moveTo(one.points[0]));
    remove.textContent = "✗";
    remove.setAttribute("aria-label", `Remove ${jump.textContent}`);
    remove.addEventListener("click", () => {
      review.measurements = review.measurements.filter((other) => other !== one);
      say(`${keep()}: one measurement removed.`);
      listMeasurements();
      redraw();
    });
    item.append(jump, remove);
    return item;
  }));
  get("measurements").hidden = !review.measurements.length;
};
const roundedNumbers = (numbers) => Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, Number(value.toFixed(2))]));
// As they are saved: places as the archive and the scanner give them.
const savedMeasurements = () => review.measurements.map((one) => ({
  lesion: one.lesion, tool: one.tool, plane: one.plane,
  ...(one.plane === "axial" ? { slice: data.numbers[one.index], instance_number: data.images?.[one.index] ?? null } : {}),
  points_lps_mm: one.points.map((point) => toLps(point).map((value) => Number(value.toFixed(2)))),
  ...roundedNumbers(one.numbers), index: one.index, points_voxel: one.points,
}));
const openMeasurements = (saved) => (Array.isArray(saved) ? saved : []).filter((one) => TOOLS[one.tool] === one.points_voxel?.length &&
  planes.some((plane) => plane.name === one.plane)).map(({ tool, plane, index, lesion, points_voxel: points, ...numbers }) => ({
  tool, plane, index, lesion, points,
  numbers: Object.fromEntries(Object.entries(numbers).filter(([name]) => /_mm$|_hu$|_mm2$|^pixels$/.test(name) && name !== "points_lps_mm")),
}));

for (const button of tools) button.addEventListener("click", () => useTool(button.dataset.tool));
