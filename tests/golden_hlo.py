"""A small program as XLA prints it after optimisation, written by hand.

Eight devices, data 2 x fsdp 4. The loop runs four times: it gathers a weight in
the background while a product of 700,000 cycles runs, and then multiplies with
it. Then the gradient is reduced over all devices in the foreground.
"""

PROGRAM = """HloModule step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%product (a: bf16[64,512], b: bf16[512,512]) -> bf16[64,512] {
  %a = bf16[64,512]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[64,512]{1,0:T(8,128)(2,1)} convolution(%a, %b), \
dim_labels=bf_io->bf
}

%write (stack: bf16[4,64,512], row: bf16[64,512], i: s32[]) -> bf16[4,64,512] {
  %stack = bf16[4,64,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %row = bf16[64,512]{1,0:T(8,128)(2,1)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %bitcast.1 = bf16[1,64,512]{2,1,0:T(8,128)(2,1)} bitcast(%row)
  ROOT %dynamic-update-slice.1 = bf16[4,64,512]{2,1,0:T(8,128)(2,1)} \
dynamic-update-slice(%stack, %bitcast.1, %i, %zero, %zero)
}

%body (carry: (s32[], bf16[64,512], bf16[4,64,512])) -> (s32[], bf16[64,512], \
bf16[4,64,512]) {
  %carry = (s32[]{:T(128)}, bf16[64,512]{1,0:T(8,128)(2,1)}, \
bf16[4,64,512]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %value = bf16[64,512]{1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=1
  %kept = bf16[4,64,512]{2,1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%count, %one)
  %shard = bf16[128,512]{1,0:T(8,128)(2,1)} constant({...})
  %all-gather-start.1 = (bf16[128,512]{1,0:T(8,128)(2,1)}, \
bf16[512,512]{1,0:T(8,128)(2,1)}) all-gather-start(%shard), channel_id=1, \
replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}, metadata={\
op_name="jit(step)/while/body/gather"}
  %weight = bf16[512,512]{1,0:T(8,128)(2,1)} constant({...})
  %fusion.1 = bf16[64,512]{1,0:T(8,128)(2,1)} fusion(%value, %weight), \
kind=kOutput, calls=%product, metadata={op_name="jit(step)/jvp()/while/body/\
dot_general"}, backend_config={"estimated_cycles":"700000"}
  %all-gather-done.1 = bf16[512,512]{1,0:T(8,128)(2,1)} \
all-gather-done(%all-gather-start.1)
  %fusion.2 = bf16[64,512]{1,0:T(8,128)(2,1)} fusion(%fusion.1, \
%all-gather-done.1), kind=kOutput, calls=%product, metadata={op_name="jit(step)\
/jvp()/while/body/dot_general"}, backend_config={"estimated_cycles":"350000"}
  %fusion.3 = bf16[4,64,512]{2,1,0:T(8,128)(2,1)} fusion(%kept, %fusion.1, \
%count), kind=kLoop, calls=%write, backend_config={"estimated_cycles":"35000"}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[64,512]{1,0:T(8,128)(2,1)}, \
bf16[4,64,512]{2,1,0:T(8,128)(2,1)}) tuple(%next, %fusion.2, %fusion.3)
}

%condition (c: (s32[], bf16[64,512], bf16[4,64,512])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[64,512]{1,0:T(8,128)(2,1)}, \
bf16[4,64,512]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%c), index=0
  %trips = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%at, %trips), direction=LT
}

ENTRY %main (p: bf16[64,512], g: f32[300,130]) -> f32[300,130] {
  %p = bf16[64,512]{1,0:T(8,128)(2,1)} parameter(0)
  %g = f32[300,130]{1,0:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(1)
  %empty = bf16[4,64,512]{2,1,0:T(8,128)(2,1)} broadcast(%start), dimensions={}\
, backend_config={"estimated_cycles":"70000"}
  %tuple.2 = (s32[]{:T(128)}, bf16[64,512]{1,0:T(8,128)(2,1)}, \
bf16[4,64,512]{2,1,0:T(8,128)(2,1)}) tuple(%start, %p, %empty)
  %while.1 = (s32[]{:T(128)}, bf16[64,512]{1,0:T(8,128)(2,1)}, \
bf16[4,64,512]{2,1,0:T(8,128)(2,1)}) while(%tuple.2), condition=%condition, \
body=%body, metadata={op_name="jit(step)/while"}
  %copy-start.1 = (f32[300,130]{1,0:T(8,128)S(1)}, f32[300,130]{1,0:T(8,128)}, \
u32[]{:S(2)}) copy-start(%g)
  %copy-done.1 = f32[300,130]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  ROOT %all-reduce.1 = f32[300,130]{1,0:T(8,128)} all-reduce(%copy-done.1), \
channel_id=2, replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}, \
use_global_device_ids=true, to_apply=%add
}
"""
