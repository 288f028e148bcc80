// Paints labels on examples. A canvas holds whole labels per pixel, never mixed colours. See demo/web/painter.py.
(() => {
  // stage -> {source, width, height, labels, undo}. Gradio may give an element another picture or mask instead of
  // replacing it, so the source is compared: then the canvas starts anew.
  const canvases = new WeakMap();
  const state = { label: 1, tool: "brush", names: {} };
  let stroke = null; // {stage, x, y} while the pointer is down

  const rootOf = (element) => element.closest(".sp");
  const colorsOf = (root) => root.dataset.colors.split(";").map((c) => c.split(",").map(Number));

  function canvasOf(stage) {
    const source = stage.querySelector("img").src + (stage.dataset.mask || "");
    if (canvases.get(stage)?.source === source) return canvases.get(stage);
    const width = Number(stage.dataset.width), height = Number(stage.dataset.height);
    const held = { source, width, height, labels: new Uint8Array(width * height), undo: [] };
    canvases.set(stage, held);
    const canvas = stage.querySelector("canvas");
    canvas.width = width; canvas.height = height;
    return held;
  }

  function draw(stage, box) {
    const { width, height, labels } = canvasOf(stage);
    const colors = colorsOf(rootOf(stage));
    const [x0, y0, x1, y1] = box || [0, 0, width, height];
    if (x1 <= x0 || y1 <= y0) return;
    const context = stage.querySelector("canvas").getContext("2d");
    const pixels = context.createImageData(x1 - x0, y1 - y0);
    let at = 0;
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++, at += 4) {
      const label = labels[y * width + x];
      if (!label) continue;
      const color = colors[label - 1];
      pixels.data[at] = color[0]; pixels.data[at + 1] = color[1]; pixels.data[at + 2] = color[2];
      pixels.data[at + 3] = 165;
    }
    context.putImageData(pixels, x0, y0);
  }

  function start(stage) { // a mask that came with the page
    const before = canvases.get(stage);
    const held = canvasOf(stage);
    if (held === before || !stage.dataset.mask) return;
    const image = new Image();
    image.onload = () => {
      const copy = document.createElement("canvas");
      copy.width = held.width; copy.height = held.height;
      if (canvases.get(stage) !== held) return;
      const context = copy.getContext("2d");
      context.drawImage(image, 0, 0);
      const rgba = context.getImageData(0, 0, held.width, held.height).data;
      for (let i = 0; i < held.labels.length; i++) held.labels[i] = rgba[4 * i];
      showLabels(rootOf(stage), Math.max(1, ...new Set(held.labels)));
      draw(stage);
    };
    image.src = stage.dataset.mask;
  }

  function disc(stage, cx, cy, radius, label) {
    const { width, height, labels } = canvasOf(stage);
    const x0 = Math.max(0, Math.floor(cx - radius)), x1 = Math.min(width, Math.ceil(cx + radius) + 1);
    const y0 = Math.max(0, Math.floor(cy - radius)), y1 = Math.min(height, Math.ceil(cy + radius) + 1);
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
      const dx = x + 0.5 - cx, dy = y + 0.5 - cy;
      if (dx * dx + dy * dy <= radius * radius) labels[y * width + x] = label;
    }
    return [x0, y0, x1, y1];
  }

  function place(stage, event) {
    const { width, height } = canvasOf(stage);
    const area = stage.getBoundingClientRect();
    return [((event.clientX - area.left) / area.width) * width, ((event.clientY - area.top) / area.height) * height];
  }

  function radiusOf(stage) { // the slider is in thousandths of the longer side
    const { width, height } = canvasOf(stage);
    const value = Number(rootOf(stage).querySelector(".sp-size input").value);
    return Math.max(0.75, (value * Math.max(width, height)) / 400);
  }

  function paint(stage, x, y) {
    const label = state.tool === "eraser" ? 0 : state.label;
    const radius = radiusOf(stage);
    const from = stroke.x === undefined ? [x, y] : [stroke.x, stroke.y];
    const steps = Math.max(1, Math.ceil(Math.hypot(x - from[0], y - from[1]) / Math.max(1, radius / 3)));
    let box = null;
    for (let i = 0; i <= steps; i++) {
      const t = i / steps;
      const b = disc(stage, from[0] + (x - from[0]) * t, from[1] + (y - from[1]) * t, radius, label);
      box = box ? [Math.min(box[0], b[0]), Math.min(box[1], b[1]), Math.max(box[2], b[2]), Math.max(box[3], b[3])] : b;
    }
    stroke.x = x; stroke.y = y;
    draw(stage, box);
  }

  function remember(stage) {
    const held = canvasOf(stage);
    held.undo.push(held.labels.slice());
    if (held.undo.length > 20) held.undo.shift();
  }

  function showLabels(root, count) {
    root.querySelectorAll(".sp-label").forEach((chip) => { if (Number(chip.dataset.label) <= count) chip.hidden = false; });
  }

  function choose(root, label) {
    state.label = label;
    if (state.tool === "eraser") setTool(root, "brush");
    root.querySelectorAll(".sp-label").forEach((chip) =>
      chip.classList.toggle("sp-on", Number(chip.dataset.label) === label));
    root.querySelector(".sp-name").value = state.names[label] || "";
  }

  function setTool(root, tool) {
    state.tool = tool;
    root.querySelectorAll('.sp-tool[data-tool="brush"], .sp-tool[data-tool="eraser"]').forEach((button) =>
      button.classList.toggle("sp-on", button.dataset.tool === tool));
  }

  function act(root, tool) {
    if (tool === "brush" || tool === "eraser") { setTool(root, tool); return; }
    if (tool === "add") {
      const next = [...root.querySelectorAll(".sp-label")].find((chip) => chip.hidden);
      if (next) { next.hidden = false; choose(root, Number(next.dataset.label)); }
      return;
    }
    root.querySelectorAll(".sp-stage").forEach((stage) => {
      const held = canvasOf(stage);
      if (tool === "clear") { remember(stage); held.labels.fill(0); draw(stage); }
      if (tool === "undo" && stage === (root.lastStage || stage) && held.undo.length) {
        held.labels.set(held.undo.pop()); draw(stage);
      }
    });
  }

  document.addEventListener("pointerdown", (event) => {
    const stage = event.target instanceof Element && event.target.closest(".sp-stage");
    if (!stage || event.button !== 0) return;
    event.preventDefault();
    stage.setPointerCapture?.(event.pointerId);
    rootOf(stage).lastStage = stage;
    remember(stage);
    stroke = { stage };
    paint(stage, ...place(stage, event));
  });
  document.addEventListener("pointermove", (event) => { if (stroke) paint(stroke.stage, ...place(stroke.stage, event)); });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { stroke = null; });

  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest(".sp-label, .sp-tool");
    if (!button) return;
    if (button.dataset.label) choose(rootOf(button), Number(button.dataset.label));
    else act(rootOf(button), button.dataset.tool);
  });
  document.addEventListener("input", (event) => {
    if (event.target instanceof Element && event.target.matches(".sp-name")) state.names[state.label] = event.target.value;
  });

  new MutationObserver(() => document.querySelectorAll(".sp-stage").forEach(start))
    .observe(document.documentElement, {
      childList: true, subtree: true, attributes: true, attributeFilter: ["src", "data-mask"],
    });

  window.segpainter = {
    // {"masks": [PNG data URL], "names": {label: name}}; a mask's red channel is the label.
    collect() {
      const masks = [...document.querySelectorAll(".sp-stage")].map((stage) => {
        const { width, height, labels } = canvasOf(stage);
        const canvas = document.createElement("canvas");
        canvas.width = width; canvas.height = height;
        const context = canvas.getContext("2d");
        const pixels = context.createImageData(width, height);
        for (let i = 0; i < labels.length; i++) { pixels.data[4 * i] = labels[i]; pixels.data[4 * i + 3] = 255; }
        context.putImageData(pixels, 0, 0);
        return canvas.toDataURL("image/png");
      });
      return JSON.stringify({ masks, names: state.names });
    },
  };
})();
