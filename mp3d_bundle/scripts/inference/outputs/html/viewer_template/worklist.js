// ---- lesion list ----

const threshold = get("threshold");
const longAxis = (lesion) => lesion.axes[0];
const shown = (lesion) => lesion.score >= Number(threshold.value) && longAxis(lesion) >= Number(get("least").value) &&
  ["", decisionOf(lesion)].includes(get("state").value) && ["", lesion.region.name].includes(get("region").value) &&
  ["", lesion.entry.class].includes(get("class").value);
const ORDERS = {
  score: (one, other) => other.score - one.score,
  size: (one, other) => longAxis(other) - longAxis(one),
  position: (one, other) => other.key - one.key,
};
const sorted = () => [...data.lesions].sort(ORDERS[get("sort").value]);

// From the chosen lesion on, also where a filter has just hidden it.
const chooseNext = (step, wanted = () => true) => {
  const list = sorted();
  const at = view.chosen ? list.indexOf(view.chosen) : step > 0 ? -1 : list.length;
  const following = list.map((_, count) => list[(at + step * (count + 1) + 2 * list.length) % list.length]);
  const next = following.find((lesion) => shown(lesion) && wanted(lesion));
  if (next) choose(next);
  return next;
};

for (const lesion of data.lesions) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const parts = [`#${lesion.number}`, lesion.score.toFixed(2), `${lesion.size.map((edge) => edge.toFixed(0)).join(" × ")} mm`, called(lesion.key)];
  for (const [at, part] of parts.entries()) {
    const element = document.createElement(at === 1 ? "b" : "span");
    element.textContent = part;
    button.append(element);
  }
  let said = `score ${lesion.score.toFixed(2)}`;
  if (lesion.probability !== null) {
    const percent = `${(100 * lesion.probability).toFixed(0)} %`;
    const small = document.createElement("small");
    small.textContent = ` ${percent}`;
    small.title = "probability: the score calibrated in validation";
    button.querySelector("b").append(small);
    said += `, probability ${percent}`;
  }
  const [long, short, source] = lesion.axes;
  const facts = [`axes ${long.toFixed(1)} × ${short.toFixed(1)} mm (${source})`, `about ${lesion.volume.toFixed(1)} ml`, atHeight(lesion.key)];
  if (lesion.region.name !== "unknown") facts.unshift(lesion.region.name);
  if (lesion.entry.class) facts.unshift(lesion.entry.class);
  if (lesion.tags.length) facts.push(lesion.tags.map(([tag, score]) => `${tag} ${score.toFixed(2)}`).join(", "));
  const more = document.createElement("small");
  more.className = "facts";
  more.textContent = facts.join("; ");
  button.append(more);
  // What the eye gets from the place of a number, and the whole in words for print.
  lesion.said = said;
  lesion.words = [`Lesion ${lesion.number}`, said, ...parts.slice(2), ...facts].join(", ");
  lesion.mark = document.createElement("i");
  lesion.mark.setAttribute("aria-hidden", "true");
  button.append(lesion.mark);
  button.addEventListener("click", () => choose(lesion));
  item.append(button);
  get("lesions").append(item);
  lesion.button = button;
}
for (const name of new Set(data.lesions.map((lesion) => lesion.region.name))) get("region").append(new Option(name));
// Only of a network that distinguishes several.
for (const name of data.head.model.classes ?? []) get("class").append(new Option(name));
get("classes").hidden = !data.head.model.classes;
// Thresholds that the weights were given in their validation; lower ones than this run's would show nothing more.
for (const [name, value] of data.points) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.title = `score at least ${value.toFixed(2)}`;
  button.disabled = value < (data.threshold ?? 0) - 0.005;
  button.addEventListener("click", () => { threshold.value = value; applyFilters(); });
  get("points").append(button);
  get("points").hidden = false;
}
const applyFilters = () => {
  let count = 0;
  for (const lesion of sorted()) {
    const item = lesion.button.parentElement;
    get("lesions").append(item);
    item.hidden = !shown(lesion);
    count += shown(lesion);
  }
  get("thresholdvalue").textContent = Number(threshold.value).toFixed(2);
  get("count").textContent = `${count} of ${data.lesions.length}`;
  get("none").hidden = count > 0;
  get("none").textContent = data.lesions.length ? "No lesion is like this." : data.caution || "No lesion was found.";
  redraw();
};

// ---- review: decisions and comments, kept in the browser for exactly this result ----

const STATES = { accepted: "✓", uncertain: "?", rejected: "✗", undecided: "" };
const KEY = `mp3d review ${data.result}`;
let review = { lesions: {}, measurements: [] };
const decisionOf = (lesion) => review.lesions[lesion.number]?.decision ?? "undecided";
const undecided = (lesion) => decisionOf(lesion) === "undecided";
const decisions = [...document.querySelectorAll("[data-decision]")];
const comment = get("comment");

const say = (text) => { get("saved").textContent = text; };
const keep = () => {
  try {
    localStorage.setItem(KEY, JSON.stringify(review));
    return "Kept in this browser";
  } catch {
    return "This browser keeps nothing: save the review as a file";
  }
};
const showReview = () => {
  const lesion = view.chosen;
  for (const one of data.lesions) {
    one.mark.textContent = STATES[decisionOf(one)];
    one.button.dataset.state = decisionOf(one);
    one.button.setAttribute("aria-description", `${one.said}, ${decisionOf(one)}`);
  }
  get("review").hidden = !lesion;
  if (!lesion) return;
  get("reviewed").textContent = lesion.number;
  get("where").textContent = `${lesion.entry.class ? `Class: ${lesion.entry.class}. ` : ""}Region: ${lesion.region.name} (${lesion.region.basis})`;
  comment.value = review.lesions[lesion.number]?.comment ?? "";
  for (const button of decisions) button.setAttribute("aria-pressed", String(button.dataset.decision === decisionOf(lesion)));
};
const changeReview = (change) => {
  if (!view.chosen) return;
  const number = view.chosen.number;
  review.lesions[number] = { decision: "undecided", comment: "", ...review.lesions[number], ...change };
  say(`${keep()}: lesion ${number} ${review.lesions[number].decision}, ${data.lesions.filter(undecided).length} of ${data.lesions.length} undecided.`);
};
// The same decision again takes it back.
const decide = (decision) => {
  if (!view.chosen) return;
  changeReview({ decision: decisionOf(view.chosen) === decision ? "undecided" : decision });
  showReview();
  applyFilters();
};
const nextUndecided = (step) => { if (!chooseNext(step, undecided)) say("No lesion in the list is undecided."); };

const reviewedLesions = () => data.lesions.map((lesion) => ({
  ...lesion.entry, review: { decision: "undecided", comment: "", ...review.lesions[lesion.number] },
}));
const asJson = () => JSON.stringify({
  ...data.head, result_sha256: data.result, reviewed: new Date().toISOString(), lesions: reviewedLesions(), measurements: savedMeasurements(),
}, null, 1);
const asCsv = () => {
  const series = data.head.input.dicom ?? {};
  const rows = reviewedLesions().map((entry, at) => ({
    lesion: entry.lesion, class: entry.class, decision: entry.review.decision, comment: entry.review.comment, score: entry.score,
    long_axis_mm: entry.axes.long_axis_mm, short_axis_mm: entry.axes.short_axis_mm, axes_source: entry.axes.source,
    volume_estimate_ml: entry.volume.estimate_ml, region: entry.region.name, region_source: entry.region.source,
    measured: review.measurements.filter((one) => one.lesion === entry.lesion).map((one) => `${one.tool} ${inWords(one)}`).join("; "),
    z_mm: data.heights[data.lesions[at].key], key_slice: entry.key_slice,
    instance_number: entry.image?.instance_number, sop_instance_uid: entry.image?.sop_instance_uid,
    frame_number: entry.image?.frame_number,
    series_instance_uid: series.series_instance_uid, notice: data.head.notices.join(" "),
  }));
  const names = ["lesion", ...(data.head.model.classes ? ["class"] : []), "decision", "comment", "score", "long_axis_mm", "short_axis_mm", "axes_source", "volume_estimate_ml", "region", "region_source", "measured", "z_mm",
    "key_slice", "instance_number", "sop_instance_uid", ...(rows.some((row) => row.frame_number) ? ["frame_number"] : []), "series_instance_uid", "notice"];
  // As table_text of scripts/storage/atomic_files.py: a text is no formula to a spreadsheet.
  const plain = (value) => /^'*[=+\-@\t\r]/.test(value) && !/^[-+.;0-9e ]+$/.test(value) ? `'${value}` : value;
  const quoted = (value) => `"${plain(String(value ?? "")).replaceAll('"', '""')}"`;
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
};
const save = (name, type, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved as ${name}.`);
};
// A review of these very lesions, from here or from another computer.
const openReview = async (file) => {
  try {
    const content = JSON.parse(await file.text());
    if (content.result_sha256 !== data.result) throw new Error("it is the review of another result");
    const known = content.lesions.filter((entry) => entry.review?.decision in STATES);
    review = { lesions: Object.fromEntries(known.map((entry) =>
      [entry.lesion, { decision: entry.review.decision, comment: String(entry.review.comment ?? "") }])), measurements: openMeasurements(content.measurements) };
    listMeasurements();
    say(`${keep()}: ${known.length} lesions from ${file.name}.`);
    showReview();
    applyFilters();
  } catch (error) {
    say(`${file.name} cannot be used: ${error.message}.`);
  }
};

try {
  review = { ...review, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
} catch {
  say("This browser keeps nothing: save the review as a file.");
}
for (const button of decisions) button.addEventListener("click", () => decide(button.dataset.decision));
comment.addEventListener("input", () => changeReview({ comment: comment.value }));
get("savejson").addEventListener("click", () => save("lesions_reviewed.json", "application/json", asJson()));
get("savecsv").addEventListener("click", () => save("lesions_reviewed.csv", "text/csv", `\ufeff${asCsv()}`));
get("openreview").addEventListener("click", () => get("reviewfile").click());
get("reviewfile").addEventListener("change", async (event) => {
  await openReview(event.target.files[0]);
  event.target.value = ""; // the same file may be opened again
});
for (const id of ["sort", "state", "region", "class", "least"]) get(id).addEventListener("input", applyFilters);
