// Draws what a camera inside a panorama sees. One triangle covers the canvas; the shader finds each pixel's ray, its
// longitude and latitude, and the place in the picture.

// Views that are outlined at once: every WebGL 2 has room for these.
const MOST_FRAMES = 32;
const GOLD = [1, 0.75, 0];

const VERTEX = `#version 300 es
out vec2 place;
void main() {
  vec2 corner = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  place = corner * 2.0 - 1.0;
  gl_Position = vec4(place, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
const float PI = 3.14159265358979;
uniform sampler2D panorama;
uniform mat3 camera;
uniform vec2 tangents;
uniform mat3 frames[${MOST_FRAMES}];
// Half the width and the height, as tangents, or as angles around a latitude (third) where the last is 1.
uniform vec4 frameShapes[${MOST_FRAMES}];
uniform vec3 frameColours[${MOST_FRAMES}];
uniform int numFrames;
uniform float lineWidth;
in vec2 place;
out vec4 colour;
void main() {
  vec3 ray = camera * normalize(vec3(place * tangents, 1.0));
  float longitude = atan(ray.x, ray.z);
  float latitude = atan(ray.y, length(ray.xz));
  colour = vec4(texture(panorama, vec2(longitude / (2.0 * PI) + 0.5, 0.5 - latitude / PI)).rgb, 1.0);
  for (int i = 0; i < numFrames; i++) {
    vec3 local = transpose(frames[i]) * ray;
    vec4 shape = frameShapes[i];
    vec2 inside;
    // To angles on the sphere, so that lines are as wide wherever they are in a view.
    float scale = 1.0;
    if (shape.w == 1.0) {
      inside = abs(vec2(atan(local.x, local.z), latitude - shape.z)) - shape.xy;
    } else {
      if (local.z <= 0.0) continue;
      inside = abs(local.xy / local.z) - shape.xy;
      scale = local.z;
    }
    float edge = abs(max(inside.x, inside.y)) * scale;
    colour.rgb = mix(colour.rgb, frameColours[i], 1.0 - smoothstep(lineWidth, 1.6 * lineWidth, edge));
  }
}`;

const MIN_FOV = 20;
const MAX_FOV = 130;

function matrix(...degrees) {
  return rotation(...degrees.map((angle) => (angle * Math.PI) / 180)).flat();
}

function isFlat(view) {
  return view.projection !== "equirectangular";
}

function orientation(view) {
  return isFlat(view) ? matrix(view.yaw_deg, view.pitch_deg, view.roll_deg ?? 0) : matrix(view.yaw_deg, 0, 0);
}

// What the shader knows of the extent of a view.
function shape(view) {
  const [across, up, pitch] = [view.hfov_deg / 2, view.vfov_deg / 2, view.pitch_deg].map((angle) => (angle * Math.PI) / 180);
  return isFlat(view) ? [Math.tan(across), Math.tan(up), 0, 0] : [across, up, pitch, 1];
}

class Viewer {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.pointers = new Map();
    this.frames = [];
    this.hasPicture = false;
    this.look({ yaw: 0, pitch: 0, fov: 90 });
    this.gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (this.gl === null) return;
    this.#compile();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.#compile());
    this.#listen();
  }

  // Returns a promise that is kept when the picture is on the canvas, or another one was asked for meanwhile.
  async show(address) {
    this.address = address;
    const image = new Image();
    image.src = address;
    await image.decode();
    if (this.address !== address) return;
    const { gl } = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, this.#fitting(image));
    this.hasPicture = true;
    this.draw();
  }

  // Angles in degrees; fov is the larger of the horizontal and the vertical one.
  look({ yaw = this.yaw, pitch = this.pitch, fov = this.fov }) {
    this.yaw = wrapDegrees(yaw);
    this.pitch = clamp(pitch, -90, 90);
    this.fov = clamp(fov, MIN_FOV, MAX_FOV);
    this.draw();
  }

  // Outlines views of the model (angles in degrees); a view's `colour` is [red, green, blue], each in 0..1.
  outline(views) {
    this.frames = views.slice(0, MOST_FRAMES);
    this.draw();
  }

  draw() {
    this.onChange(this);
    const { gl, canvas } = this;
    if (!gl || !this.hasPicture) return;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) =>
      Math.max(1, Math.round(size * Math.min(window.devicePixelRatio || 1, 2))),
    );
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.viewport(0, 0, width, height);
    const [tanX, tanY] = this.tangents();
    gl.uniformMatrix3fv(this.places.camera, true, matrix(this.yaw, this.pitch, 0));
    gl.uniform2f(this.places.tangents, tanX, tanY);
    const { frames } = this;
    gl.uniform1i(this.places.numFrames, frames.length);
    if (frames.length) {
      gl.uniformMatrix3fv(this.places.frames, true, frames.flatMap(orientation));
      gl.uniform4fv(this.places.frameShapes, frames.flatMap(shape));
      gl.uniform3fv(this.places.frameColours, frames.flatMap((view) => view.colour ?? GOLD));
    }
    gl.uniform1f(this.places.lineWidth, (3 * tanX) / width);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // Tangents of half the horizontal and half the vertical field of view.
  tangents() {
    const [width, height] = [this.canvas.clientWidth || 2, this.canvas.clientHeight || 1];
    const scale = Math.tan((this.fov * Math.PI) / 360) / Math.max(width, height);
    return [scale * width, scale * height];
  }

  #compile() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    const names = ["camera", "tangents", "frames", "frameShapes", "frameColours", "numFrames", "lineWidth"];
    this.places = Object.fromEntries(names.map((name) => [name, gl.getUniformLocation(program, name)]));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    // Longitude wraps. No mipmaps: longitude jumps at the seam, where they would draw a line.
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.REPEAT);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  }

  // Returns a picture that fits into a texture: phones take no more than 4096 columns.
  #fitting(image) {
    const most = this.gl.getParameter(this.gl.MAX_TEXTURE_SIZE);
    const scale = Math.min(1, most / image.naturalWidth, most / image.naturalHeight);
    if (scale === 1) return image;
    const [width, height] = [image.naturalWidth, image.naturalHeight].map((size) => Math.max(1, Math.floor(size * scale)));
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    return canvas;
  }

  #listen() {
    const { canvas, pointers } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.look({ fov: this.fov * Math.exp(clamp(event.deltaY, -200, 200) / 800) });
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = this.fov / 12;
      const moves = {
        ArrowLeft: { yaw: this.yaw - step },
        ArrowRight: { yaw: this.yaw + step },
        ArrowUp: { pitch: this.pitch + step },
        ArrowDown: { pitch: this.pitch - step },
        "+": { fov: this.fov / 1.15 },
        "=": { fov: this.fov / 1.15 },
        "-": { fov: this.fov * 1.15 },
        0: { yaw: 0, pitch: 0, fov: 90 },
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.look(moves[event.key]);
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // One pointer takes hold of the scene and moves it; two zoom.
  #drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    const now = [event.clientX, event.clientY];
    this.pointers.set(event.pointerId, now);
    if (others.length) {
      const apart = (point) => Math.hypot(point[0] - others[0][0], point[1] - others[0][1]);
      this.look({ fov: (this.fov * Math.max(apart(before), 1)) / Math.max(apart(now), 1) });
      return;
    }
    const degrees = this.fov / Math.max(this.canvas.clientWidth, this.canvas.clientHeight);
    this.look({ yaw: this.yaw - (now[0] - before[0]) * degrees, pitch: this.pitch + (now[1] - before[1]) * degrees });
  }
}
