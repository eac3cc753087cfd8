'use strict';
const $ = (id) => document.getElementById(id);

// The browser applies EXIF orientation as the service does, so boxes fit as they come.
async function draw(file, answer) {
  const picture = await createImageBitmap(file);
  const [width, height] = answer.image_size;
  const view = $('view');
  view.width = width;
  view.height = height;
  const pen = view.getContext('2d');
  pen.drawImage(picture, 0, 0, width, height);
  const line = Math.max(2, Math.round(Math.max(width, height) / 300));
  pen.lineWidth = line;
  pen.font = `${8 * line}px system-ui, sans-serif`;
  pen.textBaseline = 'bottom';
  for (const object of answer.objects) {
    const [x1, y1, x2, y2] = object.box;
    pen.strokeStyle = pen.fillStyle = object.needs_review ? '#e80' : '#0a0';
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const words = `${object.label} ${Math.round(100 * object.confidence)} %`;
    pen.fillText(words, x1, y1 > 10 * line ? y1 - line : y1 + 10 * line);
  }
  view.hidden = false;
}

function note(answer) {
  const sure = `${Math.round(100 * answer.confidence)} %`;
  const count = answer.boxes.length;
  const found = count ? `${count} found` : 'It is not there';
  return `${found} (confidence ${sure}, ${Math.round(answer.timing.total_ms)} ms). ` +
      (answer.advice || '');
}

$('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const file = $('image').files[0];
  const form = new FormData();
  form.append('image', file);
  form.append('prompt', $('prompt').value);
  $('ask').disabled = true;
  $('note').textContent = '…';
  $('view').hidden = $('details').hidden = true;
  try {
    const response = await fetch('api/ground', {method: 'POST', body: form});
    const answer = await response.json();
    $('json').textContent = JSON.stringify(answer, null, 2);
    $('details').hidden = false;
    if (response.ok) {
      $('note').textContent = note(answer);
      await draw(file, answer);
    } else {
      $('note').textContent = answer.detail;
    }
  } catch (error) {
    $('note').textContent = `The service did not answer: ${error.message}`;
  } finally {
    $('ask').disabled = false;
  }
});
