// ---- Hounsfield units from the two pictures of a slice ----

const get = (id) => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
const [pictureWidth, pictureHeight, secondRow] = data.picture;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

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

// Values of the picture with an id, row by row.
const decode = async (id) => {
  const picture = new Image();
  picture.src = "data:image/jpeg;base64," + get(id).textContent;
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
