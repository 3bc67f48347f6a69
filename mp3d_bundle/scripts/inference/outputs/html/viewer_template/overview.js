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
