// Files to take away: the image with its boxes drawn in, and COCO JSON.
import {describe, isReview, labelOf} from './findings.js';
import {canvasOf, toBlob} from './image_source.js';

const COLOURS = {
  sure: '#16a34a',
  review: '#ea8a00'
};

export function stem(name) {
  return name.replace(/\.[^.]*$/, '') || 'image';
}

function drawLabel(context, text, x, y, size, colour, top) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size * 0.8;
  const height = size * 1.5;
  const above = y - height >= top;
  context.fillStyle = colour;
  context.fillRect(x, above ? y - height : y, width, height);
  context.fillStyle = '#fff';
  context.textBaseline = 'middle';
  context.fillText(text, x + size * 0.4, (above ? y - height : y) + height / 2);
}

export function drawFindings(canvas, findings, withLabels) {
  const context = canvas.getContext('2d');
  const long = Math.max(canvas.width, canvas.height);
  const line = Math.max(2, Math.round(long / 400));
  const text = Math.max(12, Math.round(long / 55));
  for (const finding of findings) {
    const colour = isReview(finding) ? COLOURS.review : COLOURS.sure;
    const [x1, y1, x2, y2] = finding.box ?? [...finding.point, ...finding.point];
    context.lineWidth = line;
    context.strokeStyle = colour;
    if (finding.box) {
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    } else {
      context.beginPath();
      context.arc(x1, y1, 3 * line, 0, 2 * Math.PI);
      context.stroke();
    }
    if (withLabels)
      drawLabel(context, describe(finding), x1 - line / 2, y1 - line / 2, text, colour, 0);
  }
}

// Resolves to {blob, reduced}: a PNG in original pixels, or reduced where the browser has no canvas
// of that size.
export async function annotatedImage(source, findings, withLabels) {
  try {
    const canvas = await source.full();
    drawFindings(canvas, findings, withLabels);
    return {blob: await toBlob(canvas), reduced: false};
  } catch (error) {
    if (error.code !== 'CANVAS_TOO_LARGE') throw error;
  }
  const scale = source.display.width / source.width;
  const canvas = canvasOf(source.display.width, source.display.height);
  canvas.getContext('2d').drawImage(source.display, 0, 0);
  const shrink = (values) => values?.map((value) => value * scale);
  drawFindings(
      canvas, findings.map((f) => ({...f, box: shrink(f.box), point: shrink(f.point)})),
      withLabels);
  return {blob: await toBlob(canvas), reduced: true};
}

// COCO's object format. `items`: [{source, findings, turn}]. Points become keypoint annotations.
export function cocoJson(items) {
  const categories = new Map();
  const category = (label) => {
    if (!categories.has(label)) categories.set(label, categories.size + 1);
    return categories.get(label);
  };
  const annotations = [];
  const images = items.map(({source, findings, turn}, index) => {
    const imageId = index + 1;
    for (const finding of findings) {
      const [x1, y1, x2, y2] = finding.box ?? [...finding.point, ...finding.point];
      const annotation = {
        id: annotations.length + 1,
        image_id: imageId,
        category_id: category(labelOf(finding)),
        bbox: [x1, y1, x2 - x1, y2 - y1],
        area: (x2 - x1) * (y2 - y1),
        iscrowd: 0,
        score: finding.confidence,
      };
      if (finding.point) Object.assign(annotation, {keypoints: [x1, y1, 2], num_keypoints: 1});
      annotations.push(annotation);
    }
    return {
      id: imageId,
      file_name: source.name,
      width: source.width,
      height: source.height,
      prompt: turn.sentPrompt
    };
  });
  return {
    info: {description: 'Made with Chord'},
    images,
    annotations,
    categories: [...categories].map(([name, id]) => ({id, name})),
  };
}
