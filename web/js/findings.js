// How one finding (an object with a box, or a point) is put into words.
import {t} from './i18n.js';

let reviewThreshold = 0.7;

export function setReviewThreshold(value) {
  reviewThreshold = value;
}

export function percent(share) {
  return `${Math.round(100 * share)}%`;
}

// While the answer is being written a box has no confidence yet.
export function isReview(finding) {
  return finding.needs_review ??
      (typeof finding.confidence === 'number' && finding.confidence < reviewThreshold);
}

export function labelOf(finding) {
  return finding.label || t('unnamed');
}

export function describe(finding) {
  return typeof finding.confidence === 'number' ?
      `${labelOf(finding)} ${percent(finding.confidence)}` :
      labelOf(finding);
}

// "412, 88 – 530, 301"
export function coordinates(finding) {
  if (finding.point) return finding.point.join(', ');
  const [x1, y1, x2, y2] = finding.box;
  return `${x1}, ${y1} – ${x2}, ${y2}`;
}
