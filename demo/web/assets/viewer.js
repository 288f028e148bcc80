// Tabs, names under the pointer, and a legend that lights up regions. See demo/web/viewer.py.
(() => {
  // stage -> {source, map: {width, height, numbers, regions} once it is decoded}. Gradio may give an element
  // another content instead of replacing it, so the source is compared.
  const maps = new WeakMap();

  function decode(stage) {
    const source = stage.dataset.map;
    if (maps.get(stage)?.source === source) return maps.get(stage).map;
    maps.set(stage, { source, map: null });
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      const { naturalWidth: width, naturalHeight: height } = image;
      canvas.width = width; canvas.height = height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const rgba = context.getImageData(0, 0, width, height).data;
      const numbers = new Uint16Array(width * height);
      for (let i = 0; i < numbers.length; i++) numbers[i] = rgba[4 * i] | (rgba[4 * i + 1] << 8);
      if (stage.dataset.map !== source) return;
      maps.set(stage, { source, map: { width, height, numbers, regions: JSON.parse(stage.dataset.regions) } });
      stage.querySelector(".sv-lit").dataset.key = "";
    };
    image.src = source;
    return null;
  }

  function light(stage, wanted) {
    const key = wanted.join(",");
    const canvas = stage.querySelector(".sv-lit");
    if (canvas.dataset.key === key) return;
    canvas.dataset.key = key;
    const map = maps.get(stage)?.map;
    if (!map || !wanted.length) { canvas.classList.remove("sv-on"); return; }
    const { width, height, numbers } = map;
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const set = new Set(wanted);
    for (let i = 0; i < numbers.length; i++) if (!set.has(numbers[i])) {
      pixels.data[4 * i] = 12; pixels.data[4 * i + 1] = 14; pixels.data[4 * i + 2] = 22; pixels.data[4 * i + 3] = 165;
    }
    context.putImageData(pixels, 0, 0);
    canvas.classList.add("sv-on");
  }

  function tip(stage, event, region) {
    const box = stage.querySelector(".sv-tip");
    if (!region) { box.classList.remove("sv-on"); return; }
    box.innerHTML = "<b></b><span></span>";
    box.firstChild.textContent = region[0];
    box.lastChild.textContent = region[1];
    const area = stage.getBoundingClientRect();
    const x = event.clientX - area.left, y = event.clientY - area.top;
    box.style.left = Math.min(x + 14, area.width - box.offsetWidth - 6) + "px";
    box.style.top = Math.max(6, Math.min(y + 16, area.height - box.offsetHeight - 6)) + "px";
    box.classList.add("sv-on");
  }

  let last = null;
  document.addEventListener("pointermove", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const stage = target && target.closest(".sv-stage[data-map]");
    if (last && last !== stage && last.isConnected) { light(last, []); tip(last, event, null); }
    last = stage;
    const chip = target && target.closest(".sv-chip");
    if (chip) {
      const own = chip.closest(".sv-pane").querySelector(".sv-stage[data-map]");
      if (own && decode(own)) { light(own, chip.dataset.numbers.split(",").map(Number)); last = own; }
      return;
    }
    if (!stage) return;
    const map = decode(stage);
    if (!map) return;
    const area = stage.getBoundingClientRect();
    const x = Math.floor(((event.clientX - area.left) / area.width) * map.width);
    const y = Math.floor(((event.clientY - area.top) / area.height) * map.height);
    const number = x >= 0 && y >= 0 && x < map.width && y < map.height ? map.numbers[y * map.width + x] : 0;
    light(stage, number ? [number] : []);
    tip(stage, event, number ? map.regions[number - 1] : null);
  });

  document.addEventListener("click", (event) => {
    const tab = event.target instanceof Element && event.target.closest(".sv-tab");
    if (!tab) return;
    const viewer = tab.closest(".sv");
    viewer.querySelectorAll(".sv-tab, .sv-pane").forEach((part) => {
      part.classList.toggle("sv-on", part.dataset.view === tab.dataset.view);
    });
  });
})();
