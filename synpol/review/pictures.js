// Draws a tile: the stack of sections, and the turned cuts. The state is that of page.js.
"use strict";

function view() {
  const tile = past[place].drawn, canvas = at("stack"), shown = about.extent / zoom;
  const scale = canvas.width / shown; // pixels of the page for a nm
  const [, height] = [tile.size[1] * tile.step[2], tile.size[0] * tile.step[1]];
  const middle = { y: tile.corner[1] + height / 2, x: tile.corner[2] + tile.size[1] * tile.step[2] / 2 };
  return { tile, canvas, scale, middle, angle: turned ? tile.angle : 0 };
}

function draw() {
  const shown = past[place];
  if (!shown || !shown.drawn) return;
  const { tile, canvas, scale, middle, angle } = view();
  const pen = canvas.getContext("2d");
  const [height, width] = tile.size;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.translate(canvas.width / 2, canvas.height / 2);
  pen.rotate(-angle);
  pen.scale(scale, scale);
  const w = width * tile.step[2], h = height * tile.step[1];
  pen.imageSmoothingEnabled = true;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(tile.stack, 0, section * height, width, height, -w / 2, -h / 2, w, h);
  pen.imageSmoothingEnabled = false;
  const fine = tile.stack_sides.naturalWidth; // of finer pixels, for thin outlines
  const tall = tile.stack_sides.naturalHeight / tile.sections;
  if (sides) pen.drawImage(tile.stack_sides, 0, section * tall, fine, tall, -w / 2, -h / 2, w, h);
  if (shown.item.kind === "place") {
    const [low, high] = [shown.item.pre, shown.item.post];
    pen.lineWidth = 2 / scale;
    pen.strokeStyle = "#8ab4f8";
    pen.strokeRect(low[2] - middle.x, low[1] - middle.y, high[2] - low[2], high[1] - low[1]);
  }
  for (const one of shown.item.missed || []) drawLine(pen, one.pre, one.post, middle, scale);
  if (first) drawEnd(pen, first, middle, scale, PRE);
  drawScale(pen, scale);
  drawCuts(shown);
  const level = section - Math.floor(tile.sections / 2);
  const nm = Math.round(level * tile.step[0]);
  at("level").textContent = `section ${level > 0 ? "+" : ""}${level} (${nm > 0 ? "+" : ""}${nm} nm)`;
  at("slider").value = section;
}

function drawLine(pen, pre, post, middle, scale) {
  pen.lineWidth = 2 / scale;
  pen.strokeStyle = "#ffeb3b";
  pen.beginPath();
  pen.moveTo(pre[2] - middle.x, pre[1] - middle.y);
  pen.lineTo(post[2] - middle.x, post[1] - middle.y);
  pen.stroke();
  drawEnd(pen, pre, middle, scale, PRE);
  drawEnd(pen, post, middle, scale, POST);
}

function drawEnd(pen, point, middle, scale, colour) {
  pen.fillStyle = colour;
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2 / scale;
  pen.beginPath();
  pen.arc(point[2] - middle.x, point[1] - middle.y, 8 / scale, 0, 7);
  pen.fill();
  pen.stroke();
}

function drawScale(pen, scale) {
  const canvas = at("stack");
  const nm = [50, 100, 200, 500, 1000, 2000, 5000].findLast((n) => n * scale < canvas.width / 3) || 20;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000a";
  pen.fillRect(16, canvas.height - 62, nm * scale + 24, 50);
  pen.fillStyle = "#fff";
  pen.fillRect(28, canvas.height - 26, nm * scale, 6);
  pen.font = "24px system-ui, sans-serif";
  pen.fillText(`${nm} nm`, 28, canvas.height - 34);
}

function drawCuts(shown) {
  const tile = shown.drawn, size = tile.cuts.naturalHeight;
  if (cut.tile === tile && cut.sides === sides) return;
  cut = { tile, sides };
  for (let k = 0; k < 3; k++) {
    const canvas = at(`cut${k}`), pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.drawImage(tile.cuts, k * size, 0, size, size, 0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = false;
    if (sides) pen.drawImage(tile.cuts_sides, k * size, 0, size, size, 0, 0, canvas.width, canvas.height);
    if (k < 2 && about.sides && shown.item.kind !== "place") {
      pen.font = "600 26px system-ui, sans-serif";
      for (const [text, x, colour] of [["pre", 10, PRE], ["post", canvas.width - 64, POST]]) {
        pen.fillStyle = "#000a"; pen.fillRect(x - 6, 4, 66, 32);
        pen.fillStyle = colour; pen.fillText(text, x, 27);
      }
    }
  }
}

function pointOf(event) {
  const { tile, canvas, scale, middle, angle } = view();
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width - 0.5) * canvas.width / scale;
  const y = ((event.clientY - box.top) / box.height - 0.5) * canvas.height / scale;
  return [
    tile.corner[0] + section * tile.step[0],
    middle.y + y * Math.cos(angle) + x * Math.sin(angle),
    middle.x + x * Math.cos(angle) - y * Math.sin(angle),
  ];
}
