// Conventions of cora/geometry: yaw positive to the right, pitch positive up, roll clockwise; rays (x right, y up,
// z forward); longitude 0 in the middle of the panorama, latitude +90° at its top. Angles in radians.

// Camera-to-world rotation, three rows: roll first, then pitch, then yaw.
function rotation(yaw, pitch, roll = 0) {
  const [cy, sy, cp, sp, cr, sr] = [yaw, pitch, roll].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
  return [
    [cy * cr + sy * sp * sr, cy * sr - sy * sp * cr, sy * cp],
    [-cp * sr, cp * cr, sp],
    [-sy * cr + cy * sp * sr, -sy * sr - cy * sp * cr, cy * cp],
  ];
}

function wrapDegrees(degrees) {
  return ((((degrees + 180) % 360) + 360) % 360) - 180;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
